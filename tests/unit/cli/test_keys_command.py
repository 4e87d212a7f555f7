"""`holdfast keys`: made once, shown without the secret."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from holdfast.bus import keys as bus_keys
from holdfast.cli.keys import keys


def run(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(keys, list(words))
    return done.exit_code, done.output


def test_a_key_is_made_and_shown(tmp_path: Path) -> None:
    path = tmp_path / "k"
    code, text = run("generate", "--name", "lb1", "--file", str(path))
    assert code == 0
    pair = bus_keys.read(path)
    assert pair.name == "lb1"
    assert pair.public in text
    assert pair.secret not in text
    code, text = run("show", "--file", str(path), "--json")
    shown = json.loads(text)
    assert code == 0
    assert shown["public"] == pair.public
    assert pair.secret not in text
    assert run("fingerprint", "--file", str(path)) == (0, shown["fingerprint"] + "\n")
    assert run("fingerprint", pair.public) == (0, shown["fingerprint"] + "\n")


def test_a_key_that_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "k"
    run("generate", "--file", str(path))
    before = bus_keys.read(path)
    code, text = run("generate", "--file", str(path))
    assert code == 1
    assert "there already" in text
    assert bus_keys.read(path) == before
    assert run("generate", "--file", str(path), "--replace")[0] == 0
    assert bus_keys.read(path) != before


def test_mistakes_are_said(tmp_path: Path) -> None:
    assert run("show", "--file", str(tmp_path / "none"))[0] == 1
    assert run("fingerprint", "short")[0] == 1
    assert run("generate", "--name", 'a"b', "--file", str(tmp_path / "k"))[0] == 1
    assert not (tmp_path / "k").exists()


def test_the_account_for_nats() -> None:
    code, text = run("nats", "--node", "lb1", "--node", "w1:worker", "--client", "eye")
    assert code == 0
    assert (
        'user: "CN=lb1"' in text and "holdfast.command.worker.*.w1" in text and "holdfast.command.viewer.*.eye" in text
    )
    for words in (("--node", "lb1", "--client", "lb1"), ("--client", "eye:root"), ("--node", ":worker")):
        assert run("nats", *words)[0] == 1
