"""The rehearsal runs whole takeovers, whatever the instance tracks."""

from holdfast.actors.vrrp.config import Tracked, Tracks, VrrpInstance
from holdfast.actors.vrrp.rehearsal import rehearse


def test_a_rehearsal_takes_over_each_time() -> None:
    instance = VrrpInstance(name="V", interface="eth0", vrid=1)
    assert rehearse(instance, 3) == 3 * rehearse(instance, 1) > 0


def test_an_instance_that_waits_for_a_script_is_no_trouble() -> None:
    tracks = Tracks(scripts=(Tracked(name="chk", weight=0, reverse=False),))
    assert rehearse(VrrpInstance(name="V", interface="eth0", vrid=1, tracks=tracks), 1) >= 0
