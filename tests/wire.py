"""The wire watched from outside: adverts and gratuitous ARPs at a switch port, with the kernel's time stamps."""

from __future__ import annotations

import socket
import struct
import threading
from dataclasses import dataclass

from netns import NetNs

SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
PACKET_OUTGOING = 4
ETH_P_ALL = 3
NS = 1_000_000_000


@dataclass
class Seen:
    """One packet of interest. kind: advert or garp; what: VRID or address."""

    at: int
    kind: str
    what: object
    priority: int = -1


class Wire:
    """What the far end of a switch port sends: adverts and gratuitous ARPs, with the kernel's time stamps."""

    def __init__(self, switch: NetNs, port: str) -> None:
        with switch.enter():
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        with switch.enter():
            self._socket.bind((port, ETH_P_ALL))
        self._socket.settimeout(0.1)
        self.seen: list[Seen] = []
        self._open = True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while self._open:
            try:
                data, control, _, address = self._socket.recvmsg(256, 128)
            except TimeoutError:
                continue
            except OSError:
                return
            if address[2] == PACKET_OUTGOING or not control:
                continue
            seconds, nanoseconds = struct.unpack("qq", control[0][2][:16])
            found = parse(data)
            if found is not None:
                found.at = seconds * NS + nanoseconds
                self.seen.append(found)

    def adverts(self, since: int = 0, *, above: int = -1) -> list[Seen]:
        """Adverts not older than `since` with a priority above `above`."""
        return [each for each in self.seen if each.kind == "advert" and each.at >= since and each.priority > above]

    def garps(self, since: int = 0) -> list[Seen]:
        """Gratuitous ARPs not older than `since`."""
        return [each for each in self.seen if each.kind == "garp" and each.at >= since]

    def close(self) -> None:
        """No more packets."""
        self._open = False
        self._thread.join(1)
        self._socket.close()


def parse(data: bytes) -> Seen | None:
    """The advert or gratuitous ARP in a frame."""
    kind = data[12:14]
    if kind == b"\x08\x06" and data[28:32] == data[38:42]:
        return Seen(0, "garp", socket.inet_ntoa(data[28:32]))
    if kind == b"\x08\x00" and data[23] == 112:
        start = 14 + (data[14] & 15) * 4
        return Seen(0, "advert", data[start + 1], data[start + 2])
    return None
