"""Topics on NATS and back, and who may do what there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bus import subjects, topics

NAMES = st.text(min_size=0, max_size=12)


@pytest.mark.parametrize(
    ("topic", "subject"),
    [
        ("lb1/vrrp/VI_1/state", "holdfast.event.lb1.vrrp.VI_1.state"),
        ("lb1/check/tcp-10.0.0.2:80-1f/result", "holdfast.event.lb1.check.tcp-10%2E0%2E0%2E2:80-1f.result"),
        ("a.example/x/*/y", "holdfast.event.a%2Eexample.x.%2A.y"),
        ("n/x/%/y", "holdfast.event.n.x.%.y"),
    ],
)
def test_samples(topic: str, subject: str) -> None:
    assert subjects.subject_of(topic) == subject
    assert subjects.topic_of(subject) == topic


@given(NAMES, NAMES)
def test_any_topic_comes_back_as_it_was(node: str, name: str) -> None:
    topic = topics.topic_of(node, f"vrrp/{name}", "state")
    subject = subjects.subject_of(topic)
    assert subject.count(".") == 5 and not set(" \t\r\n*>") & set(subject)
    assert subjects.topic_of(subject) == topic


@given(NAMES, st.sampled_from(subjects.ROLES))
def test_who_asks_stands_in_the_subject(name: str, role: str) -> None:
    subject = subjects.command_of(role, "lb.1", name)
    assert subject.count(".") == 4
    assert subjects.caller_of(subject) == (role, name)


@pytest.mark.parametrize("subject", ["", "holdfast.event.a.b.c", "holdfast.event.a.b.c.d.e", "other.event.a.b.c.d"])
def test_what_is_no_event_is_refused(subject: str) -> None:
    with pytest.raises(topics.BadTopic):
        subjects.topic_of(subject)


@pytest.mark.parametrize("subject", ["holdfast.command.root.lb1.eve", "holdfast.command.viewer.lb1", ""])
def test_what_is_no_command_is_refused(subject: str) -> None:
    with pytest.raises(topics.BadTopic):
        subjects.caller_of(subject)


def allows(pattern: str, subject: str) -> bool:
    """As NATS matches."""
    wanted, words = pattern.split("."), subject.split(".")
    for place, each in enumerate(wanted):
        if each == ">":
            return len(words) > place
        if place >= len(words) or each not in ("*", words[place]):
            return False
    return len(wanted) == len(words)


def may(rules: tuple[str, ...], subject: str) -> bool:
    return any(allows(rule, subject) for rule in rules)


def test_a_client_speaks_for_nobody() -> None:
    publish, subscribe = subjects.permissions("eye", "viewer", node=False)
    assert may(publish, subjects.command_of("viewer", "lb1", "eye"))
    for subject in (
        subjects.command_of("operator", "lb1", "eye"),
        subjects.command_of("viewer", "lb1", "hand"),
        subjects.subject_of("lb1/vrrp/VI_1/state"),
        subjects.subject_of("eye/vrrp/VI_1/state"),
        subjects.beat_of("lb1"),
        "$JS.API.STREAM.CREATE.HOLDFAST",
        "$JS.API.STREAM.DELETE.HOLDFAST",
        "$JS.API.STREAM.PURGE.HOLDFAST",
        "$JS.API.CONSUMER.DELETE.HOLDFAST.x",
    ):
        assert not may(publish, subject), subject
    assert may(subscribe, "_INBOX_eye.abc")
    assert not may(subscribe, "_INBOX_lb1.abc") and not may(subscribe, subjects.commands_for("lb1"))


def test_a_node_speaks_for_itself_alone() -> None:
    publish, subscribe = subjects.permissions("w.1", "worker", node=True)
    assert may(publish, subjects.subject_of("w.1/vrrp/VI_1/state")) and may(publish, subjects.beat_of("w.1"))
    assert not may(publish, subjects.subject_of("lb1/vrrp/VI_1/state"))
    assert not may(publish, subjects.command_of("operator", "lb1", "w.1"))
    assert may(subscribe, subjects.command_of("operator", "w.1", "lb1"))
    assert not may(subscribe, subjects.command_of("operator", "lb1", "w.1"))


def test_the_account_names_everybody() -> None:
    text = subjects.server_config([("lb1", "operator", True), ("eye", "viewer", False)])
    assert text.count('user: "CN=') == 2 and text.count("allow_responses") == 1
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")
