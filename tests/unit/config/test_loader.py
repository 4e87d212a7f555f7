"""What a configuration becomes: slices, defaults, precedence; and that nothing a file may hold raises."""

from __future__ import annotations

import functools
import random
import time
from pathlib import Path

import config_corpus
import msgspec
import pytest
from config_corpus import CorpusHost
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from holdfast.actors.bfd.config import BfdRoom
from holdfast.actors.checkers.config import CheckersGlobals, HttpCheck, ServiceChecks, TcpCheck
from holdfast.actors.ipvs.config import IpvsGlobals, VirtualServer
from holdfast.actors.notify.config import NotifyRoom
from holdfast.actors.registry import TABLES
from holdfast.actors.vrrp.config import VrrpInstance, VrrpRoom
from holdfast.actors.watch.config import WatchRoom
from holdfast.config.diagnostics import Severity
from holdfast.config.host import Interface
from holdfast.config.loader import Loaded, load


class AnyInterface(CorpusHost):
    """Every interface exists."""

    def interface(self, name: str) -> Interface | None:
        return Interface(name)


@pytest.fixture
def read(tmp_path: Path):
    def reader(text: str | bytes, **options: object) -> Loaded:
        path = tmp_path / "holdfast.conf"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load(path, TABLES, host=CorpusHost(), config_id="lb1", environment={}, **options)  # type: ignore[arg-type]

    return reader


def vrrp(loaded: Loaded) -> VrrpRoom:
    return msgspec.msgpack.decode(loaded.rooms["vrrp"]["room"], type=VrrpRoom)


def instance(loaded: Loaded) -> VrrpInstance:
    (only,) = vrrp(loaded).instances
    return only


GOOD = (
    "vrrp_instance VI_1 {{\n interface eth0\n virtual_router_id 51\n {}\n virtual_ipaddress {{\n 10.0.0.9/24\n }}\n}}\n"
)


def test_an_instance_with_its_defaults(read) -> None:
    loaded = read(GOOD.format(""))
    assert (loaded.exit_code, loaded.diagnostics) == (0, ())
    router = instance(loaded)
    assert (router.name, router.vrid, router.priority, router.version, router.family) == ("VI_1", 51, 100, 2, 4)
    assert router.mcast_group == "224.0.0.18"
    assert router.addresses[0].address == "10.0.0.9"
    assert router.addresses[0].prefix == 24
    assert router.accept


def test_every_room_has_slices_that_decode(read) -> None:
    loaded = read(GOOD.format("") + "bfd_instance b {\n neighbor_ip 192.0.2.2\n}\n")
    assert msgspec.msgpack.decode(loaded.rooms["watch"]["room"], type=WatchRoom) == WatchRoom()
    assert msgspec.msgpack.decode(loaded.rooms["bfd"]["room"], type=BfdRoom).instances[0].min_tx_us == 10_000
    notify = msgspec.msgpack.decode(loaded.rooms["notify"]["room"], type=NotifyRoom)
    assert [(target.kind, target.name) for target in notify.targets] == [("INSTANCE", "VI_1")]
    assert msgspec.msgpack.decode(loaded.rooms["ipvs"]["globals"], type=IpvsGlobals) == IpvsGlobals()
    assert msgspec.msgpack.decode(loaded.rooms["checkers"]["globals"], type=CheckersGlobals) == CheckersGlobals()


def test_state_master_without_priority_is_an_owner(read) -> None:
    router = instance(read(GOOD.format("state MASTER")))
    assert (router.priority, router.wants_master) == (255, True)
    router = instance(read(GOOD.format("state MASTER\n priority 90")))
    assert (router.priority, router.wants_master) == (90, True)


def test_an_instance_overrules_global_defs(read) -> None:
    text = "global_defs {\n vrrp_garp_master_delay 7\n vrrp_version 3\n vrrp_strict\n}\n"
    router = instance(read(text + GOOD.format("garp_master_delay 2\n strict_mode off")))
    assert router.garp.master_delay_us == 2_000_000
    assert router.garp.lower_prio_delay_us == 2_000_000
    assert (router.version, router.strict) == (3, False)


def test_global_defs_count_wherever_they_stand(read) -> None:
    loaded = read(GOOD.format("track_interface {\n eth9\n }") + "global_defs {\n dynamic_interfaces\n}\n")
    assert loaded.exit_code == 0
    assert vrrp(loaded).dynamic_interfaces


def test_weights_are_filled_in_from_the_tracked_thing(read) -> None:
    text = "global_defs {\n script_user root\n enable_script_security\n}\n"
    text += "vrrp_script chk {\n script \"/bin/true a 'b c'\"\n weight -20 reverse\n interval 3\n rise 2\n}\n"
    text += "track_file f {\n file /run/f\n}\n"
    loaded = read(text + GOOD.format("track_script {\n chk\n }\n track_file {\n f weight 3\n }"))
    assert loaded.exit_code == 0
    tracks = instance(loaded).tracks
    assert [(item.name, item.weight, item.reverse) for item in tracks.scripts] == [("chk", -20, True)]
    assert [(item.name, item.weight, item.reverse) for item in tracks.files] == [("f", 3, False)]
    (script,) = msgspec.msgpack.decode(loaded.rooms["watch"]["room"], type=WatchRoom).scripts
    assert script.command.argv == ("/bin/true", "a", "b c")
    assert (script.interval_us, script.timeout_us, script.rise) == (3_000_000, 3_000_000, 2)


def test_errors_in_one_block_do_not_hide_those_in_the_next(read) -> None:
    text = "vrrp_instance A {\n prio 5\n}\nfoo {\n bar\n}\n" + GOOD.format("priority 300\n advert_int x")
    loaded = read(text)
    assert [(found.position.line, found.position.column) for found in loaded.diagnostics if found.position] == [
        (1, 1),
        (2, 2),
        (4, 1),
        (10, 11),
        (11, 13),
    ]
    assert instance(loaded).priority == 100
    assert "did you mean 'priority'?" in loaded.diagnostics[1].hint


def test_what_is_not_acted_on_is_said_once_and_leaves_the_verdict(read) -> None:
    loaded = read(GOOD.format("use_vmac") + GOOD.format("use_vmac").replace("VI_1", "VI_2").replace("51", "52"))
    assert loaded.exit_code == 0
    assert [found.severity for found in loaded.diagnostics] == [Severity.NOTE]


def test_what_is_newer_is_acted_on_with_a_warning(read) -> None:
    loaded = read(GOOD.format("timer_expired_backup 200\n owner_ignore_adverts"))
    assert (loaded.exit_code, loaded.has_errors) == (5, False)
    assert instance(loaded).timer_expired_backup == 200


def test_a_missing_file_is_no_error(tmp_path: Path) -> None:
    loaded = load(tmp_path / "none.conf", TABLES, host=CorpusHost())
    assert (loaded.exit_code, loaded.exists) == (0, False)
    assert vrrp(loaded).instances == ()


LVS = """
virtual_server 10.1.0.1 80 {
 lvs_sched sh
 sh-port
 lvs_method DR
 protocol TCP
 delay_loop 7
 connect_timeout 2
 persistence_timeout
 alpha
 weight 5
 virtualhost vs
 sorry_server 10.1.0.9
 real_server 10.1.0.2 {
  retry 4
  TCP_CHECK {
   connect_timeout 1
  }
  HTTP_GET {
   retry 2
   alpha off
   url {
    path /
    status_code 200 300-302
   }
  }
 }
 real_server 10.1.0.3 8080 {
  weight 0
  lvs_method NAT
 }
}
"""


def test_a_virtual_server_with_precedence_and_ports(read) -> None:
    loaded = read(LVS)
    assert loaded.exit_code == 0, loaded.diagnostics
    name = "[10.1.0.1]:tcp:80"
    service = msgspec.msgpack.decode(loaded.rooms["ipvs"][name], type=VirtualServer)
    assert (service.scheduler, service.flags, service.persistence_timeout_s) == ("sh", 0x10, 360)
    assert service.sorry_server is not None
    assert service.sorry_server.port == 80
    first, second = service.real_servers
    assert (first.name, first.weight, first.port) == ("[10.1.0.2]:tcp:80", 5, 80)
    assert (second.port, second.weight, second.forwarding.method) == (8080, 0, "NAT")
    assert [(check.kind, check.alpha) for check in first.checks] == [("TCP_CHECK", True), ("HTTP_GET", False)]
    checks = msgspec.msgpack.decode(loaded.rooms["checkers"][name], type=ServiceChecks)
    (server,) = checks.servers
    tcp, http = server.checks
    assert isinstance(tcp, TcpCheck)
    assert (tcp.connection.timeout_us, tcp.retry, tcp.delay_loop_us, tcp.connection.port) == (
        1_000_000,
        4,
        7_000_000,
        80,
    )
    assert isinstance(http, HttpCheck)
    assert (http.connection.timeout_us, http.retry, http.delay_before_retry_us) == (2_000_000, 2, 3_000_000)
    assert http.urls[0].status_codes == ((200, 200), (300, 302))
    assert http.host == "vs"
    assert [check.name for check in first.checks] == [tcp.name, http.name]


def test_groups_of_virtual_servers_keep_their_ranges(read) -> None:
    text = "virtual_server_group G {\n 10.1.0.1-5 80\n 10.2.0.0/24 81\n fwmark 7 inet\n}\n"
    text += (
        LVS.replace("10.1.0.1 80", "group G")
        .replace("lvs_method DR", "lvs_method NAT")
        .replace("10.1.0.3 8080", "10.1.0.3")
    )
    loaded = read(text)
    service = msgspec.msgpack.decode(loaded.rooms["ipvs"]["[G]:0"], type=VirtualServer)
    assert [(item.first, item.last, item.port, item.fwmark) for item in service.members] == [
        ("10.1.0.1", "10.1.0.5", 80, 0),
        ("10.2.0.0", "10.2.0.255", 81, 0),
        (None, None, 0, 7),
    ]


def test_process_options(read) -> None:
    text = "instance one\nglobal_defs {\n router_id lb\n vrrp_rt_priority 50\n vrrp_cpu_affinity 0 1\n umask 022\n"
    process = read(text + " checker_priority -5\n vrrp_no_swap\n}\n").process
    assert (process.instance, process.router_id, process.umask) == ("one", "lb", 0o022)
    assert (process.protocol.rt_priority, process.protocol.cpu_affinity, process.protocol.no_swap) == (50, (0, 1), True)
    assert process.checkers.nice == -5


@functools.cache
def corpus_texts() -> list[str]:
    return [case.text for case in config_corpus.cases(Path("/nonexistent"))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=2000))
def test_any_bytes_give_a_verdict(read, content: bytes) -> None:
    loaded = read(content)
    assert loaded.exit_code in (0, 4, 5, 6)
    assert (loaded.exit_code == 0) == all(found.severity is Severity.NOTE for found in loaded.diagnostics)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), seed=st.integers(0, 1 << 32))
def test_broken_configurations_give_a_verdict(read, data: st.DataObject, seed: int) -> None:
    chance = random.Random(seed)
    texts = corpus_texts()
    text = bytearray("\n".join(chance.choice(texts) for _ in range(2)).encode())
    for _ in range(chance.randrange(1, 8)):
        at = chance.randrange(len(text))
        match chance.randrange(3):
            case 0:
                del text[at : at + chance.randrange(1, 20)]
            case 1:
                text[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case 2:
                piece = chance.randrange(len(text))
                text[at:at] = text[piece : piece + 40]
        text = text or bytearray(b" ")
    loaded = read(bytes(text), seed=1)
    assert loaded.exit_code in (0, 4, 5, 6)
    for room in loaded.rooms.values():
        for encoded in room.values():
            msgspec.msgpack.decode(encoded)


def test_a_thousand_instances_are_read_in_well_under_a_second(tmp_path: Path) -> None:
    """0.2 s of processor time on the build machine; the limit leaves room for a slow one."""
    path = tmp_path / "many.conf"
    blocks = []
    for number in range(1000):
        block = GOOD.format(f"mcast_dst_ip 224.0.{number // 250 + 1}.18\n state BACKUP\n priority 100\n advert_int 1")
        block = block.replace("VI_1", f"VI_{number}")
        blocks.append(block.replace("router_id 51", f"router_id {number % 250 + 1}"))
    path.write_text("".join(blocks))
    begin = time.process_time()
    loaded = load(path, TABLES, host=AnyInterface())
    assert time.process_time() - begin < 1.5
    assert loaded.exit_code == 0
    assert len(vrrp(loaded).instances) == 1000
