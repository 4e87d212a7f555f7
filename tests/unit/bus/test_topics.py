"""Names of any characters travel through topics and come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.bus import topics

ANY_TEXT = st.text(st.characters(codec=None, exclude_categories=()), max_size=40) | st.text(max_size=40)


@given(ANY_TEXT)
def test_any_name_is_one_word_and_comes_back(name: str) -> None:
    word = topics.quote(name)
    assert word
    assert "/" not in word
    assert not any(character.isspace() for character in word)
    word.encode("utf-8")
    if not any("\ud800" <= character <= "\udfff" and not "\udc80" <= character <= "\udcff" for character in name):
        assert topics.unquote(word) == name


@given(ANY_TEXT, ANY_TEXT)
def test_a_topic_has_four_words(node: str, name: str) -> None:
    topic = topics.topic_of(node, f"vrrp/{name}", "state")
    assert topic.count("/") == 3
    assert topics.split(topic)[2] == "state"


@given(st.text(max_size=30))
def test_unquote_gives_a_name_or_bad_topic(text: str) -> None:
    try:
        topics.unquote(text)
    except topics.BadTopic:
        assert "%" in text


@pytest.mark.parametrize(
    ("subject", "words"),
    [
        ("vrrp/VI_1", "vrrp/VI_1"),
        ("address/10.0.0.1@eth0", "address/10.0.0.1@eth0"),
        ("vs/10.0.0.1:80/tcp", "vs/10.0.0.1:80%2Ftcp"),
        ("vrrp/a b%c", "vrrp/a%20b%25c"),
        ("vrrp/Zürich", "vrrp/Zürich"),
        ("supervisor", "supervisor/%"),
        ("script/bad\udcff", "script/bad%FF"),
    ],
)
def test_samples(subject: str, words: str) -> None:
    assert topics.subject_words(subject) == words
    assert topics.split(f"n/{words}/state") == ("n", subject, "state")


@pytest.mark.parametrize("topic", ["", "a", "a/b/c", "a/b/c/d/e", "a//c/d", "a/b/%4/d", "a/b/%zz/d", "a/b/c%/d"])
def test_bad_topics(topic: str) -> None:
    with pytest.raises(topics.BadTopic):
        topics.split(topic)


@pytest.mark.parametrize("word", ["", "a b", "a/b", "ä", "a%"])
def test_kinds_and_aspects_are_plain(word: str) -> None:
    with pytest.raises(topics.BadTopic):
        topics.topic_of("n", "vrrp/x", word)
