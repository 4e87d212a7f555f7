"""The values and protocols between the actors and Linux.

Everything that touches the kernel is behind faces.py: the real thing in this package's other files, the same in memory
in `fake.py`. Addresses are `ipaddress` objects in text form inside the Structs (they travel on the bus too).
"""

from __future__ import annotations

import msgspec


class KernelError(Exception):
    """A kernel call failed. operation: what was tried; subject: on what; errno: the kernel's number."""

    def __init__(self, operation: str, subject: str, errno: int, text: str = "") -> None:
        super().__init__(operation, subject, errno, text)
        self.operation = operation
        self.subject = subject
        self.errno = errno
        self.text = text

    def __str__(self) -> str:
        import os  # noqa: PLC0415 - only when shown

        detail = self.text or os.strerror(self.errno)
        return f"{self.operation} {self.subject}: {detail} (errno {self.errno})"


class AddressSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One address to be on an interface (keepalived.conf(5), virtual_ipaddress).

    address: without prefix. prefix: 0..32 or 0..128. dev: interface name, empty: the owner's interface.
    preferred_lft_s: None = for ever. nodad: the kernel's IFA_F_NODAD is set (keepalived sets it on all VIPs).
    """

    address: str
    prefix: int
    dev: str = ""
    broadcast: str | None = None
    scope: int = 0
    label: str | None = None
    peer: str | None = None
    home: bool = False
    nodad: bool = True
    mngtmpaddr: bool = False
    noprefixroute: bool = False
    autojoin: bool = False
    preferred_lft_s: int | None = None
    track: bool = True
    track_group: str | None = None
    use_vmac: bool = False

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4


class NextHop(msgspec.Struct, frozen=True, kw_only=True):
    """One hop of a multipath route."""

    via: str | None = None
    dev: str | None = None
    weight: int = 1
    onlink: bool = False
    realms: str | None = None
    encap: tuple[str, ...] = ()


class RouteSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One route (keepalived.conf(5), virtual_routes). Names are already numbers: table, protocol, scope, tos.

    destination: "default" or ADDR/LEN. metrics: (name, value, locked) in the words of ip-route.
    """

    destination: str
    family: int = 4
    type: str = "unicast"
    via: str | None = None
    source: str | None = None
    from_: str | None = None
    dev: str | None = None
    table: int | None = None
    protocol: int = 18
    scope: int | None = None
    metric: int | None = None
    tos: int = 0
    onlink: bool = False
    realms: str | None = None
    encap: tuple[str, ...] = ()
    expires_s: int | None = None
    preference: str | None = None
    metrics: tuple[tuple[str, str, bool], ...] = ()
    features: tuple[str, ...] = ()
    ttl_propagate: bool | None = None
    mode: str = "prepend"
    next_hops: tuple[NextHop, ...] = ()
    track: bool = True
    track_group: str | None = None


class RuleSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One policy rule (keepalived.conf(5), virtual_rules). Names are already numbers."""

    family: int = 4
    invert: bool = False
    from_: str | None = None
    to: str | None = None
    tos: int = 0
    fwmark: int | None = None
    fwmask: int | None = None
    iif: str | None = None
    oif: str | None = None
    realms: str | None = None
    table: int | None = None
    preference: int | None = None
    action: str = "table"
    goto: int | None = None
    suppress_prefix_length: int | None = None
    suppress_group: int | None = None
    tunnel_id: int | None = None
    uid_range: tuple[int, int] | None = None
    l3mdev: bool = False
    protocol: int = 18
    ip_protocol: int | None = None
    source_ports: tuple[int, int] | None = None
    destination_ports: tuple[int, int] | None = None
    track: bool = True
    track_group: str | None = None
