"""The firewall's text of nftables_ipvs is taken by a real nftables (the guest with IPVS has none)."""

from __future__ import annotations

import subprocess

import pytest

from holdfast.actors.ipvs.config import GroupMember, IpvsGlobals, VirtualServer
from holdfast.actors.ipvs.marks import Marks, removal

pytestmark = pytest.mark.netns

MEMBERS = (
    GroupMember(family=4, first="10.0.0.1", last="10.0.0.9", port=80),
    GroupMember(family=4, first="10.0.1.1"),
    GroupMember(family=6, first="fd00::1", last="fd00::9", port=443),
)


def test_nftables_takes_the_maps_again_and_again_and_gives_them_back() -> None:
    marks = Marks()
    settings = IpvsGlobals(nftables_table="keepalived_ipvs", nftables_counters=True)
    for protocol in ("tcp", "udp", "sctp"):
        group = VirtualServer(
            name=f"[{protocol}]:0", kind="group", family=4, protocol=protocol, group=protocol, members=MEMBERS
        )
        marks.rewrite(group, settings)
    script = marks.script(settings)
    steps = "nft -f - && nft list ruleset && echo ---- && printf '%s' \"$1\" | nft -f - && nft list ruleset"
    words = ["unshare", "-n", "sh", "-c", steps, "sh", removal("keepalived_ipvs")]
    done = subprocess.run(words, input=script + script, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    there, _, left = done.stdout.partition("----")
    assert there.count("10.0.0.1-10.0.0.9 . 80") == 3
    assert there.count("fd00::1-fd00::9 . 443") == 3
    assert left.strip() == ""
