"""faces.Requests in memory: rtnetlink orders that are carried out on fake links, or refused as a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from holdfast.kernel.base import AddressSpec, KernelError, RouteSpec, RuleSpec
from holdfast.kernel.faces import Batch
from holdfast.kernel.netlink import route_subject, rule_subject
from holdfast.kernel.records import AddressRecord, RouteRecord, RuleRecord

if TYPE_CHECKING:
    from holdfast.kernel.fake import FakeKernel

OUR_PORT = 4711


class FakeBatch:
    """faces.Batch as a list of calls."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self.orders: list[tuple[str, Callable[[], None]]] = []
        self.errors: list[KernelError] = []

    def __len__(self) -> int:
        return len(self.orders)

    def address(self, spec: AddressSpec, ifindex: int, *, remove: bool = False, valid_lft_s: int | None = None) -> None:
        """See faces.Batch."""
        kernel = self._kernel
        name = spec.dev or kernel.links.name(ifindex) or f"#{ifindex}"
        record = AddressRecord(
            ifindex=ifindex,
            address=spec.address,
            prefix=spec.prefix,
            scope=spec.scope,
            label=spec.label,
            peer=spec.peer,
            broadcast=spec.broadcast,
            valid_lft_s=valid_lft_s,
            preferred_lft_s=spec.preferred_lft_s,
        )

        def add() -> None:
            kernel.links.put_address(record, OUR_PORT)
            kernel.lease(ifindex, spec.address, valid_lft_s)

        def drop() -> None:
            kernel.links.drop_address(ifindex, spec.address, OUR_PORT)
            kernel.lease(ifindex, spec.address, None)

        self.orders.append((f"address/{spec.address}@{name}", drop if remove else add))

    def route(self, spec: RouteSpec, *, remove: bool = False) -> None:
        """See faces.Batch."""
        links = self._kernel.links
        ifindex = links.ifindex(spec.dev) if spec.dev is not None else 0
        for hop in spec.next_hops:
            if hop.dev is not None:
                links.ifindex(hop.dev)
        record = RouteRecord(spec=spec, ifindex=ifindex)

        def drop() -> None:
            links.drop_route(spec, OUR_PORT)

        self.orders.append((route_subject(spec), drop if remove else lambda: links.put_route(record, OUR_PORT)))

    def rule(self, spec: RuleSpec, *, remove: bool = False) -> None:
        """See faces.Batch."""
        links = self._kernel.links
        record = RuleRecord(spec=spec)

        def add() -> None:
            links.put_rule(record, OUR_PORT)

        def drop() -> None:
            links.drop_rule(record, OUR_PORT)

        self.orders.append((rule_subject(spec), drop if remove else add))


class FakeRequests:
    """faces.Requests: carries batches out on the links. sent: subjects in the order they were carried out."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self.port = OUR_PORT
        self.sent: list[str] = []
        self._refused: dict[str, int] = {}

    def refuse(self, subject: str, number: int | None) -> None:
        """Orders on the subject fail with this errno; None: no more."""
        if number is None:
            self._refused.pop(subject, None)
        else:
            self._refused[subject] = number

    def batch(self) -> FakeBatch:
        """A new empty batch."""
        return FakeBatch(self._kernel)

    def send(self, batch: Batch) -> None:
        """See faces.Requests."""
        assert isinstance(batch, FakeBatch), batch
        for subject, order in batch.orders:
            self.sent.append(subject)
            if subject in self._refused:
                batch.errors.append(KernelError("add", subject, self._refused[subject]))
                continue
            try:
                order()
            except KernelError as error:
                batch.errors.append(KernelError(error.operation, subject, error.errno))

    def send_together(self, batches: Sequence[Batch]) -> None:
        """See faces.Requests."""
        for batch in batches:
            self.send(batch)

    def collect(self, batch: Batch) -> list[KernelError]:
        """See faces.Requests."""
        assert isinstance(batch, FakeBatch), batch
        errors, batch.errors = batch.errors, []
        return errors

    def run(self, batch: Batch) -> list[KernelError]:
        """`send` and `collect`."""
        self.send(batch)
        return self.collect(batch)

    def addresses(self) -> list[AddressRecord]:
        """Of every interface."""
        return [record for link in self._kernel.links.all() for record in self._kernel.links.addresses(link.index)]

    def routes(self, protocol: int = 18) -> list[RouteRecord]:
        """Of one protocol."""
        return [route for route in self._kernel.links.routes() if route.spec.protocol == protocol]

    def rules(self) -> list[RuleRecord]:
        """All."""
        return list(self._kernel.links.rules())
