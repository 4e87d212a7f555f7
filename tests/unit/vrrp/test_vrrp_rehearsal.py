"""The rehearsal runs whole takeovers, whatever the instance tracks."""

from holdfast.actors.vrrp.config import Tracked, Tracks, VrrpInstance
from holdfast.actors.vrrp.foreseen import rehearse_fault, tracks
from holdfast.actors.vrrp.options import MachineOptions
from holdfast.actors.vrrp.rehearsal import rehearse


def test_a_rehearsal_takes_over_each_time() -> None:
    instance = VrrpInstance(name="V", interface="eth0", vrid=1)
    assert rehearse(instance, 3) == 3 * rehearse(instance, 1) > 0


def test_an_instance_that_waits_for_a_script_is_no_trouble() -> None:
    tracks = Tracks(scripts=(Tracked(name="chk", weight=0, reverse=False),))
    assert rehearse(VrrpInstance(name="V", interface="eth0", vrid=1, tracks=tracks), 1) >= 0


def test_a_fault_is_foreseen_as_it_will_be() -> None:
    tracks_bfd = Tracks(bfd=(Tracked(name="b0", weight=0, reverse=False), Tracked(name="b1", weight=-10, reverse=True)))
    instance = VrrpInstance(name="V", interface="eth0", vrid=1, tracks=tracks_bfd)
    options = MachineOptions()
    # Two adverts of priority 0, the addresses go, it is told and logged.
    assert rehearse_fault(instance, options, "b0") == 5
    # Its weight alone changes: told and logged.
    assert rehearse_fault(instance, options, "b1") == 2
    assert [tracks(instance, options, name) for name in ("b0", "b1", "other")] == [True, True, False]
    assert tracks(VrrpInstance(name="W", interface="eth0", vrid=2), MachineOptions(group_tracks=tracks_bfd), "b0")
