"""Who takes what out of our nftables table: the kernel's news of each change, with the program that made it.

The kernel sends the changes of a transaction to the multicast group NFNLGRP_NFTABLES and ends them with a message that
names the process (NFT_MSG_NEWGEN with NFTA_GEN_PROC_PID and _NAME, linux/netfilter/nf_tables.h).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
from collections.abc import Callable, Container
from typing import Final

from holdfast.kernel.base import KernelError

_NETLINK_NETFILTER: Final = 12
_GROUP_NFTABLES: Final = 7
_SUBSYSTEM_NFTABLES: Final = 10
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NFGEN_BYTES: Final = 4
_REMOVALS: Final = {2: "table", 5: "chain", 8: "rule", 11: "set", 14: "element"}
"""NFT_MSG_DELTABLE, DELCHAIN, DELRULE, DELSET, DELSETELEM; the first attribute of each names the table."""
_NEW_GENERATION: Final = 15
_GENERATION_PID: Final = 2
_GENERATION_NAME: Final = 3
_RECEIVE_BYTES: Final = 1 << 18


class FirewallWatch:
    """Calls `lost(by)` after a transaction of somebody else that removed something from `table`.

    by: the program, as `nft (pid 4711)`; None: news were lost, so perhaps something was removed.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        table: str,
        ours: Container[int],
        lost: Callable[[str | None], None],
    ) -> None:
        """ours: the processes that carry out our own orders. KernelError when the kernel has no nftables."""
        self._loop = loop
        self._table = table
        self._ours = ours
        self._lost = lost
        self._removed = False
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
            )
        except OSError as error:
            raise KernelError("watch", f"nftables/{table}", error.errno or 0) from None
        try:
            self._socket.bind((0, 1 << (_GROUP_NFTABLES - 1)))
        except OSError as error:
            self._socket.close()
            raise KernelError("watch", f"nftables/{table}", error.errno or 0) from None
        loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Harmless twice."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    self._removed = False
                    self._lost(None)
                    continue
                return
            self._take(data)

    def _take(self, data: bytes) -> None:
        at = 0
        while at + _HEADER.size <= len(data):
            length, kind, _, _, _ = _HEADER.unpack_from(data, at)
            if length < _HEADER.size:
                return
            if kind >> 8 == _SUBSYSTEM_NFTABLES:
                attributes = _attributes(data[at + _HEADER.size + _NFGEN_BYTES : at + length])
                self._change(kind & 0xFF, attributes)
            at += (length + 3) & ~3

    def _change(self, kind: int, attributes: dict[int, bytes]) -> None:
        if kind in _REMOVALS:
            if _text(attributes.get(1, b"")) == self._table:
                self._removed = True
            return
        if kind != _NEW_GENERATION or not self._removed:
            return
        self._removed = False
        pid = int.from_bytes(attributes.get(_GENERATION_PID, b""), "big")
        if pid in self._ours:
            return
        name = _text(attributes.get(_GENERATION_NAME, b"")) or "?"
        self._lost(f"{name} (pid {pid})")


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    with contextlib.suppress(struct.error):
        while at + _ATTRIBUTE.size <= len(data):
            length, kind = _ATTRIBUTE.unpack_from(data, at)
            if length < _ATTRIBUTE.size:
                break
            found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
            at += (length + 3) & ~3
    return found


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
