"""holdfast.toml: everything has a default, nothing that is misspelt passes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.config import settings as settings_module
from holdfast.config.settings import PeerSettings, Settings, SettingsError, load, parse

KEY = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


def test_an_empty_file_is_all_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module.socket, "gethostname", lambda: "lb1.example.org")
    assert parse("") == Settings(node="lb1")


def test_a_full_file() -> None:
    got = parse(
        """
        node = "lb2"
        vip_lease = 5
        address_repair = "report"
        panic_threshold = 0.5
        [placement]
        checkers = "worker"
        [journal]
        path = "/data/j.sqlite"
        max_age_days = 7
        [gateway]
        listen = ["192.0.2.1:7000", "[2001:db8::1]:7000"]
        [[peers]]
        name = "lb1"
        key = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
        role = "replica"
        endpoint = "tcp://192.0.2.2:7000"
        [bfd]
        anything = { at = "all" }
        """
    )
    assert (got.node, got.vip_lease, got.address_repair) == ("lb2", 5, "report")
    assert got.placement == {"checkers": "worker"}
    assert got.journal.max_age_days == 7.0
    assert got.peers == (PeerSettings(name="lb1", key=KEY, role="replica", endpoint="tcp://192.0.2.2:7000"),)
    assert got.bfd == {"anything": {"at": "all"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vip_leese = 3", "vip_leese: not known, did you mean vip_lease?"),
        ("[journal]\nmax_size = 3", "journal.max_size: not known, did you mean journal.max_size_mb?"),
        ("[[peers]]\nname='a'\nkey='k'\nroll='viewer'", "peers[0].roll: not known, did you mean peers[0].role?"),
        ("[placement]\nvrp = 'x'", "placement.vrp: no such room, did you mean vrrp?"),
        ("[placement]\nvrrp = 'supervisor'", "placement.vrrp: 'supervisor' cannot name a cell"),
        ("[placement]\nvrrp = '@lb2'", "placement.vrrp: needs this node's kernel"),
        ("[placement]\ncheckers = '@lb2'", "placement.checkers: lb2 is not among the peers with the role worker"),
        ("node = 'a'\n[placement]\ncheckers = '@a b'", "placement.checkers: 'b' is no node; nodes are written @NAME"),
        ("[checks]\nvantage_points = 2\nagree = 3", "checks: vantage_points is from 1, agree from 0 to vantage_points"),
        ("[gateway]\nengine = 'nats'", "gateway.nats_servers: the engine nats needs one"),
        ("[gateway]\nnats_servers = ['http://a:1']", "gateway.nats_servers: 'http://a:1' is not tls://HOST:PORT"),
        ("[gateway]\nnats_servers = ['tls://a']", "gateway.nats_servers: 'tls://a' is not tls://HOST:PORT"),
        ("[gateway]\nnats_servers = ['nats://192.0.2.1:4222']", "without TLS only to an address of this host"),
        ("[gateway]\nnats_keep_days = 0", "gateway: nats_keep_days is above 0"),
        ("[checks]\nlost_after_s = 0.5", "checks: lost_after_s is from 1"),
        ("[checks]\nrun_for = ['lb9']", "checks.run_for: lb9 is not among the peers that have an endpoint"),
        ("[placement]\nvrrp = 'a/b'", "placement.vrrp: 'a/b' cannot name a cell"),
        ("vip_lease = 0", "vip_lease: whole seconds"),
        ("node = 3", "node: expected `str`, got `int`"),
        ("panic_threshold = 2.0", "panic_threshold: from 0 to 1"),
        ("[cells]\nhung_after_s = 0", "cells: hung_after_s"),
        ("[gateway]\nlisten = ['nowhere']", "listen: 'nowhere' is not ADDRESS:PORT"),
        ("[[peers]]\nname='a'\nkey='k'\n[[peers]]\nname='a'\nkey='l'", "peers: 'a' is there twice"),
        ("x = ", "Invalid value"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text, "file")
    assert any(message in each and each.startswith("file: ") for each in caught.value.messages), caught.value.messages


def test_all_unknown_keys_are_said_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        parse("a = 1\nb = 2\n[journal]\nc = 3")
    assert len(caught.value.messages) == 3


def test_a_named_file_must_be_there_and_the_default_need_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings_module, "DEFAULT_PATH", tmp_path / "none.toml")
    assert load().node
    with pytest.raises(SettingsError):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError):
        load(tmp_path / "bad.toml")
    (tmp_path / "good.toml").write_text('node = "x"')
    assert load(tmp_path / "good.toml").node == "x"


@given(st.text(max_size=200))
def test_any_text_is_settings_or_an_error_for_people(text: str) -> None:
    try:
        parse(text)
    except SettingsError as error:
        assert error.messages


def test_nodes_that_run_the_checks() -> None:
    text = f"""
    node = "lb1"
    placement.checkers = "@w1 @lb1 @w1"
    [[peers]]
    name = "w1"
    key = "{KEY}"
    role = "worker"
    """
    assert settings_module.workers_of(parse(text)) == ("w1", "lb1")
    assert settings_module.workers_of(parse("[placement]\ncheckers = 'apart'")) == ()


def test_a_fleet() -> None:
    text = """
    [gateway]
    engine = "nats"
    nats_servers = ["tls://192.0.2.10:4222", "nats://127.0.0.1:4222", "nats://localhost:4222"]
    nats_follow = ["lb1"]
    """
    gateway = parse(text).gateway
    assert (gateway.engine, gateway.nats_follow, gateway.nats_role) == ("nats", ("lb1",), "operator")
