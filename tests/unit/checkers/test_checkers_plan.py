"""Which checks run: sharing, identity, names."""

from __future__ import annotations

import msgspec
import pytest
from checks_lab import at
from hypothesis import given
from hypothesis import strategies as st

from holdfast.actors.checkers.config import (
    BfdCheck,
    Check,
    DnsCheck,
    FileCheck,
    HttpCheck,
    HttpUrl,
    MiscCheck,
    Script,
    ServerChecks,
    ServiceChecks,
    SmtpCheck,
    TcpCheck,
)
from holdfast.actors.checkers.kinds import checker_of, identity_of, kinds, sameness_of
from holdfast.actors.checkers.plan import Plan, name_of


def service(name: str, *checks: Check) -> ServiceChecks:
    servers = tuple(
        ServerChecks(
            server=f"[10.0.0.{place}]:tcp:80",
            address=f"10.0.0.{place}",
            port=80,
            weight=1,
            checks=(msgspec.structs.replace(check, name=f"CHECK-{place}@{name}"),),  # type: ignore[arg-type]
        )
        for place, check in enumerate(checks)
    )
    return ServiceChecks(service=name, protocol="tcp", servers=servers)


TCP = TcpCheck(name="", connection=at(80, "10.0.0.2"))
HTTP = HttpCheck(name="", connection=at(80, "10.0.0.2"), urls=(HttpUrl(path="/"),))
MISC = MiscCheck(name="", script=Script(argv=("/bin/check", "-v")))


def test_identical_checks_of_two_services_run_once():
    plan = Plan()
    plan.put("a", service("a", TCP))
    plan.put("b", service("b", TCP, HTTP))
    assert len(plan.wanted) == 2
    wanted = plan.wanted[sameness_of(TCP)]
    assert [(each.virtual_server, each.check) for each in wanted.sorted_targets()] == [
        ("a", "CHECK-0@a"),
        ("b", "CHECK-0@b"),
    ]


def test_a_service_that_goes_leaves_the_others_theirs():
    plan = Plan()
    plan.put("a", service("a", TCP))
    plan.put("b", service("b", TCP, HTTP))
    assert plan.put("b", None) == {sameness_of(TCP), sameness_of(HTTP)}
    assert list(plan.wanted) == [sameness_of(TCP)]
    assert plan.put("a", service("a")) == {sameness_of(TCP)}
    assert plan.wanted == {}


def test_nothing_is_touched_by_what_has_not_changed():
    plan = Plan()
    plan.put("a", service("a", TCP, HTTP))
    assert plan.put("a", service("a", TCP, HTTP)) == set()
    louder = msgspec.structs.replace(HTTP, retry=7)
    assert plan.put("a", service("a", TCP, louder)) == {sameness_of(HTTP), sameness_of(louder)}


def test_alpha_is_of_the_target_and_keeps_nothing_apart():
    plan = Plan()
    plan.put("a", service("a", TCP))
    plan.put("b", service("b", msgspec.structs.replace(TCP, alpha=True)))
    (wanted,) = plan.wanted.values()
    assert [each.alpha for each in wanted.sorted_targets()] == [False, True]


@pytest.mark.parametrize(
    "words",
    [
        {"retry": 9},
        {"delay_loop_us": 1},
        {"delay_before_retry_us": 1},
        {"warmup_us": 1},
        {"log_all_failures": True},
        {"alpha": True},
        {"name": "other"},
    ],
)
@pytest.mark.parametrize("check", [TCP, HTTP, MISC])
def test_timing_leaves_a_check_the_same(check: Check, words: dict[str, object]):
    assert identity_of(msgspec.structs.replace(check, **words)) == identity_of(check)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (TCP, {"connection": at(81, "10.0.0.2")}),
        (TCP, {"connection": at(80, "10.0.0.3")}),
        (TCP, {"connection": at(80, "10.0.0.2", timeout_s=1)}),
        (TCP, {"connection": at(80, "10.0.0.2", bind_address="10.0.0.9")}),
        (TCP, {"connection": at(80, "10.0.0.2", fwmark=1)}),
        (HTTP, {"urls": (HttpUrl(path="/other"),)}),
        (HTTP, {"urls": (HttpUrl(path="/", digest="0" * 32),)}),
        (HTTP, {"tls": True}),
        (HTTP, {"host": "www"}),
        (HTTP, {"sni": "www"}),
        (MISC, {"script": Script(argv=("/bin/check",))}),
        (MISC, {"dynamic": True}),
        (SmtpCheck(name="", connection=at(25)), {"helo_name": "x"}),
        (DnsCheck(name="", connection=at(53)), {"query_type": "A"}),
        (DnsCheck(name="", connection=at(53)), {"query_name": "x"}),
        (FileCheck(name="", track_file="a", path="/a"), {"weight": 3}),
        (BfdCheck(name="", instance="a"), {"instance": "b"}),
    ],
)
def test_what_it_looks_at_makes_it_another(check: Check, words: dict[str, object]):
    assert identity_of(msgspec.structs.replace(check, **words)) != identity_of(check)


def test_misc_timeout_is_timing():
    assert identity_of(msgspec.structs.replace(MISC, timeout_us=1)) == identity_of(MISC)
    assert sameness_of(msgspec.structs.replace(MISC, timeout_us=1)) != sameness_of(MISC)


@pytest.mark.parametrize(
    ("check", "start"),
    [
        (TCP, "tcp-10.0.0.2:80-"),
        (TcpCheck(name="", connection=at(80, "2001:db8::1")), "tcp-[2001:db8::1]:80-"),
        (HTTP, "http-10.0.0.2:80-"),
        (msgspec.structs.replace(HTTP, tls=True), "ssl-10.0.0.2:80-"),
        (MISC, "misc-check-"),
        (FileCheck(name="", track_file="load of a", path="/x"), "file-load_of_a-"),
        (BfdCheck(name="", instance="s1"), "bfd-s1-"),
    ],
)
def test_names(check: Check, start: str):
    name = name_of(check, identity_of(check))
    assert name == start + identity_of(check)
    assert "/" not in name


@given(st.lists(st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 4), max_size=4)), max_size=12))
def test_the_plan_is_what_the_newest_slices_say(story: list[tuple[str, list[int]]]):
    plan = Plan()
    newest: dict[str, ServiceChecks] = {}
    for name, places in story:
        checks = service(name, *(TcpCheck(name="", connection=at(80, f"10.0.2.{place}")) for place in places))
        before = {key: each.sorted_targets() for key, each in plan.wanted.items()}
        touched = plan.put(name, checks)
        after = {key: each.sorted_targets() for key, each in plan.wanted.items()}
        assert {key for key in before | after if before.get(key) != after.get(key)} <= touched
        newest[name] = checks
    fresh = Plan()
    for name, checks in newest.items():
        fresh.put(name, checks)
    assert {key: each.sorted_targets() for key, each in plan.wanted.items()} == {
        key: each.sorted_targets() for key, each in fresh.wanted.items()
    }


def test_every_kind_of_the_configuration_has_its_file():
    from holdfast.actors.checkers import config

    specs = [each for each in vars(config).values() if isinstance(each, type) and issubclass(each, config.Check)]
    assert {kind.spec_type for kind in kinds()} == set(specs) - {config.Check}
    assert checker_of(HTTP).kind_of(HTTP) == "HTTP_GET"
