"""For which virtual addresses a node speaks when its instances have different masters."""

from __future__ import annotations

from holdfast.actors.connsync.scope import Ownership
from holdfast.actors.vrrp.messages import VrrpState, VrrpStateChanged
from holdfast.bus.messages import Reason, ReasonKind


def told(instance: str, state: VrrpState, *addresses: str) -> VrrpStateChanged:
    """An instance tells its state."""
    reason = Reason(kind=ReasonKind.STARTED, node="lb1", subject=f"vrrp/{instance}")
    return VrrpStateChanged(
        instance=instance,
        old=VrrpState.INIT,
        state=state,
        priority=100,
        since_mono_ns=0,
        reason=reason,
        vrid=1,
        family=4,
        interface="eth0",
        addresses=addresses,
    )


def test_two_instances_with_different_masters() -> None:
    ownership = Ownership()
    assert ownership.heard(told("A", VrrpState.MASTER, "10.2.0.100/24", "10.2.0.101"))
    assert ownership.heard(told("B", VrrpState.BACKUP, "fd02::100/64"))
    assert ownership.scope.owned == {b"0A020064", b"0A020065"}
    assert ownership.scope.foreign == {b"fd02:0000:0000:0000:0000:0000:0000:0100"}
    assert ownership.speaks_for(bytes((10, 2, 0, 100)))
    assert not ownership.speaks_for(bytes.fromhex("fd020000000000000000000000000100"))
    # Nobody's virtual router: whoever made the connection speaks for it.
    assert ownership.speaks_for(bytes((10, 2, 0, 1)))


def test_only_a_change_is_a_change() -> None:
    ownership = Ownership()
    assert ownership.heard(told("A", VrrpState.BACKUP, "10.2.0.100"))
    assert not ownership.heard(told("A", VrrpState.FAULT, "10.2.0.100"))
    assert ownership.heard(told("A", VrrpState.MASTER, "10.2.0.100"))


def test_an_instance_that_is_deleted_decides_nothing() -> None:
    ownership = Ownership()
    ownership.heard(told("A", VrrpState.BACKUP, "10.2.0.100"))
    assert not ownership.speaks_for(bytes((10, 2, 0, 100)))
    assert ownership.heard(told("A", VrrpState.DELETED, "10.2.0.100"))
    assert ownership.speaks_for(bytes((10, 2, 0, 100)))
    assert not ownership.forgotten("A")
