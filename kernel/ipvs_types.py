"""The values of the kernel's load balancer (IPVS) and its face as a protocol.

`ipvs.py` has the real thing, `fake_ipvs.py` the same in memory. Nothing here opens a socket: pure rooms may speak
in these values.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol

import msgspec

from holdfast.kernel.base import KernelError

PROTOCOL_NUMBERS = {"none": 0, "tcp": 6, "udp": 17, "sctp": 132}
PROTOCOL_NAMES = {number: name for name, number in PROTOCOL_NUMBERS.items()}

FLAG_PERSISTENT = 0x01
FLAG_HASHED = 0x02
FLAG_ONE_PACKET = 0x04
FLAG_SCHEDULER_1 = 0x08
FLAG_SCHEDULER_2 = 0x10
FLAG_SCHEDULER_3 = 0x20


class Method(enum.IntEnum):
    """How packets reach the real server (linux/ip_vs.h, IP_VS_CONN_F_FWD_MASK)."""

    NAT = 0
    LOCAL = 1
    TUN = 2
    DR = 3
    BYPASS = 4


class TunnelType(enum.IntEnum):
    """Encapsulation of Method.TUN (linux/ip_vs.h)."""

    IPIP = 0
    GUE = 1
    GRE = 2


class ServiceKey(msgspec.Struct, frozen=True, order=True):
    """What tells one kernel service from another. protocol 0 and an empty address: by fwmark."""

    family: int
    protocol: int = 0
    address: str = ""
    port: int = 0
    fwmark: int = 0

    def __str__(self) -> str:
        if self.fwmark:
            return f"FWM {self.fwmark}"
        return f"[{self.address}]:{PROTOCOL_NAMES.get(self.protocol, str(self.protocol))}:{self.port}"


class ServiceSpec(msgspec.Struct, frozen=True):
    """A kernel service. flags: FLAG_* without HASHED, which the kernel sets.

    timeout_s: of persistence, 0 = none. granularity: netmask (IPv4) or prefix length (IPv6) of persistence.
    """

    key: ServiceKey
    scheduler: str
    flags: int = 0
    timeout_s: int = 0
    granularity: str = ""
    engine: str = ""

    def __post_init__(self) -> None:
        if not self.granularity:
            msgspec.structs.force_setattr(self, "granularity", "255.255.255.255" if self.key.family == 4 else "128")


class DestinationSpec(msgspec.Struct, frozen=True, order=True):
    """A kernel destination: a real server in one service. Its key is (address, port).

    upper, lower: connection thresholds, 0 = none. tunnel_flags: 1 checksum, 2 remote checksum.
    """

    address: str
    port: int
    method: int = Method.NAT
    weight: int = 1
    upper: int = 0
    lower: int = 0
    tunnel_type: int = TunnelType.IPIP
    tunnel_port: int = 0
    tunnel_flags: int = 0

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from others of the same service."""
        return (self.address, self.port)


class Verb(enum.StrEnum):
    """What an order does."""

    ADD = "add"
    EDIT = "edit"
    DELETE = "delete"


class ServiceOrder(msgspec.Struct, frozen=True):
    """Add, edit or delete one service. Deleting one deletes its destinations."""

    verb: Verb
    service: ServiceSpec

    def __str__(self) -> str:
        return f"{self.verb} service {self.service.key}"


class DestinationOrder(msgspec.Struct, frozen=True):
    """Add, edit or delete one destination of a service."""

    verb: Verb
    service: ServiceKey
    destination: DestinationSpec

    def __str__(self) -> str:
        return f"{self.verb} destination [{self.destination.address}]:{self.destination.port} of {self.service}"


Order = ServiceOrder | DestinationOrder


class Refusal(msgspec.Struct, frozen=True):
    """An order that the kernel did not carry out. index: its place in the sequence that was applied."""

    index: int
    order: Order
    error: KernelError


class Statistics(msgspec.Struct, frozen=True):
    """Counters of a service or destination; rates per second."""

    connections: int = 0
    in_packets: int = 0
    out_packets: int = 0
    in_bytes: int = 0
    out_bytes: int = 0
    connections_per_s: int = 0
    in_packets_per_s: int = 0
    out_packets_per_s: int = 0
    in_bytes_per_s: int = 0
    out_bytes_per_s: int = 0


class ServiceRecord(msgspec.Struct, frozen=True):
    """A service as the kernel has it."""

    spec: ServiceSpec
    statistics: Statistics = Statistics()


class DestinationRecord(msgspec.Struct, frozen=True):
    """A destination as the kernel has it."""

    spec: DestinationSpec
    active: int = 0
    inactive: int = 0
    persistent: int = 0
    statistics: Statistics = Statistics()


class Timeouts(msgspec.Struct, frozen=True):
    """Connection timeouts in seconds; when setting, 0 leaves one as it is."""

    tcp_s: int = 0
    tcp_fin_s: int = 0
    udp_s: int = 0


class DaemonSpec(msgspec.Struct, frozen=True):
    """A connection sync daemon of the kernel. role: master or backup. Zero and empty: the kernel's default."""

    role: str
    interface: str
    sync_id: int = 0
    max_length: int = 0
    port: int = 0
    ttl: int = 0
    group: str = ""


class Info(msgspec.Struct, frozen=True):
    """The kernel's IPVS. version: as in `1.2.1`."""

    version: str
    connection_table_size: int


class IpvsTable(Protocol):
    """The load balancer's table of one network namespace."""

    def apply(self, orders: Sequence[Order]) -> list[Refusal]:
        """Carries the orders out, in order, and says which were refused; those after a refused one are still tried.

        Takes 10 to 30 us an order: whoever has thousands of them hands them over in pieces.
        """

    async def services(self, *, statistics: bool = False) -> list[ServiceRecord]:
        """Every service of the table, foreign ones too."""

    async def destinations(self, service: ServiceKey, *, statistics: bool = False) -> list[DestinationRecord]:
        """The destinations of a service; [] when it is not there."""

    def timeouts(self) -> Timeouts:
        """The connection timeouts."""

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """Changes them, except those that are 0. Raises KernelError."""

    def daemons(self) -> list[DaemonSpec]:
        """The sync daemons that run."""

    def start_daemon(self, daemon: DaemonSpec) -> None:
        """Raises KernelError: EEXIST when that role runs already."""

    def stop_daemon(self, role: str, sync_id: int = 0) -> None:
        """Raises KernelError: ESRCH when that role does not run."""

    def flush(self) -> None:
        """Removes every service, foreign ones too."""

    def info(self) -> Info:
        """The kernel's version of IPVS."""

    def close(self) -> None:
        """Ends our sockets; the table stays."""
