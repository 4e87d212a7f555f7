"""[bfd] of holdfast.toml: what is taken, what is refused with which words, and how it joins a bfd_instance."""

from __future__ import annotations

import tomllib

import pytest

from holdfast.actors.bfd.auth import AuthType, Key
from holdfast.actors.bfd.config import BfdInstance
from holdfast.actors.bfd.profiles import BfdSettings, BfdSettingsError, SessionSpec, parse_settings, session_spec

TOML = """
profile = "base"
[profiles.base]
multiplier = 4
[profiles.core]
authentication = "meticulous-sha1"
keys = [{ id = 1, secret = "one" }, { id = 2, secret = "0x00ff" }]
min_rx_ms = 3.3
[sessions."core-*"]
profile = "core"
interface = "eth0"
[sessions.core-9]
profile = "core"
authentication = "none"
min_ttl = 250
passive = true
"""


def spec(name: str, toml: str = TOML, **more: object) -> SessionSpec:
    instance = BfdInstance(name=name, neighbor="10.0.0.1", **more)  # type: ignore[arg-type]
    return session_spec(instance, parse_settings(tomllib.loads(toml)))


def test_a_pattern_gives_its_profile() -> None:
    made = spec("core-1")
    assert made.interface == "eth0"
    assert made.auth_type is AuthType.METICULOUS_SHA1
    assert made.keys == (Key(1, b"one"), Key(2, b"\x00\xff"))
    assert made.config.authenticated
    assert made.config.required_min_rx_us == 3300


def test_an_exact_name_wins_over_a_pattern() -> None:
    made = spec("core-9")
    assert (made.interface, made.min_ttl, made.config.passive) == ("", 250, True)
    assert (made.auth_type, made.keys, made.config.authenticated) == (None, (), False)


def test_the_default_profile_is_for_the_rest() -> None:
    made = spec("edge")
    assert made.config.detect_mult == 4
    assert made.config.required_min_rx_us == 10_000


def test_without_settings_it_is_keepalived() -> None:
    made = session_spec(
        BfdInstance(name="x", neighbor="10.0.0.1", min_rx_us=20_000, min_tx_us=30_000, multiplier=7), BfdSettings()
    )
    assert (made.config.required_min_rx_us, made.config.desired_min_tx_us) == (20_000, 30_000)
    assert made.config.detect_mult == 7
    assert (made.ttl, made.min_ttl, made.source, made.check_source) == (255, 255, None, True)


@pytest.mark.parametrize(
    ("ttl", "hops", "least"), [(255, 0, 255), (255, 3, 252), (64, 0, 64), (5, 9, 0), (255, None, 0)]
)
def test_ttl_and_max_hops_give_the_least_ttl(ttl: int, hops: int | None, least: int) -> None:
    assert spec("edge", ttl=ttl, max_hops=hops).min_ttl == least


def test_ipv6_asks_for_64_and_sends_255() -> None:
    made = session_spec(BfdInstance(name="x", neighbor="fe80::1%eth3", ttl=64), BfdSettings())
    assert (made.ttl, made.min_ttl, made.interface) == (255, 64, "eth3")


def test_no_echo_over_several_hops() -> None:
    toml = "[sessions.m]\necho_transmit_ms = 50\necho_receive_ms = 50"
    one, several = spec("m", toml), spec("m", toml, multihop=True)
    assert (one.config.echo_tx_us, one.config.echo_rx_us) == (50_000, 50_000)
    assert (several.config.echo_tx_us, several.config.echo_rx_us) == (0, 0)


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('[sessions.a]\nprofile = "cor"\n[profiles.core]', "no profile 'cor', did you mean 'core'?"),
        ('profile = "x"', "bfd.profile: no profile 'x'"),
        ('[profiles.a]\nprofile = "a"', "a profile has none itself"),
        ('[sessions.a]\nauthentication = "md5"', "keys: at least one is needed"),
        ('[sessions.a]\nkeys = [{ id = 1, secret = "x" }]', "without authentication they mean nothing"),
        ('[sessions.a]\nauthentication = "md5"\nkeys = [{ id = 256, secret = "x" }]', "id 256 is not from 0 to 255"),
        ('[sessions.a]\nauthentication = "md5"\nkeys = [{ id = 1, secret = "0xyz" }]', "not hexadecimal"),
        ('[sessions.a]\nauthentication = "md5"\nkeys = [{ id = 1, secret = "" }]', "has 0 bytes"),
        (
            '[sessions.a]\nauthentication = "md5"\nkeys = [{ id = 1, secret = "seventeen letters" }]',
            "has 17 bytes, allowed are 1 to 16",
        ),
        (
            '[sessions.a]\nauthentication = "sha1"\nkeys = [{ id = 1, secret = "a" }, { id = 1, secret = "b" }]',
            "an id is there twice",
        ),
        ("[sessions.a]\nmin_ttl = 256", "min_ttl: from 0 to 255"),
        ("[sessions.a]\nmultiplier = 0", "multiplier: from 1 to 255"),
        ("[sessions.a]\nidle_tx_ms = 999", "idle_tx_ms: from 1000"),
        ("[sessions.a]\nmin_rx_ms = 0", "min_rx_ms: from 0.001"),
        ("[sessions.a]\nmin_rx = 5", "min_rx"),
        ('[sessions.a]\nauthentication = "sha2"', "Invalid enum value 'sha2'"),
    ],
)
def test_mistakes_are_named(toml: str, words: str) -> None:
    with pytest.raises(BfdSettingsError) as raised:
        parse_settings(tomllib.loads(toml))
    assert words in str(raised.value)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(BfdSettingsError) as raised:
        parse_settings(tomllib.loads("[sessions.a]\nmin_ttl = 256\nmultiplier = 0"))
    assert len(raised.value.messages) == 2
