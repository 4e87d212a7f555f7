"""Every configuration of the corpus has keepalived's verdict (tests/interop compares with the real one)."""

from __future__ import annotations

import collections
from pathlib import Path

import config_corpus
import pytest
from config_corpus import CONFIG_ID, CorpusHost

from holdfast.actors.registry import TABLES
from holdfast.config.loader import load


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return config_corpus.make_directory(tmp_path_factory.mktemp("corpus"))


def files() -> list[str]:
    return sorted(path.stem for path in config_corpus.CORPUS.glob("*.txt"))


@pytest.mark.parametrize("file", files())
def test_verdicts_and_places(file: str, directory: Path) -> None:
    path = directory / "case.conf"
    wrong = []
    for case in config_corpus.cases(directory):
        if case.file != file:
            continue
        path.write_bytes(case.text.encode())
        loaded = load(path, TABLES, config_id=CONFIG_ID, environment={}, host=CorpusHost(), seed=1)
        if loaded.exit_code != case.verdict:
            said = "\n".join(f"    {diagnostic}" for diagnostic in loaded.diagnostics)
            wrong.append(f"{case.name}: {loaded.exit_code} instead of {case.verdict}\n{said}")
        lines = case.text.split("\n")
        for diagnostic in loaded.diagnostics:
            place = diagnostic.position
            if place is not None and place.file == str(path):
                assert 1 <= place.line <= len(lines), (case.name, diagnostic)
                assert 1 <= place.column <= len(lines[place.line - 1]) + 1, (case.name, diagnostic)
    assert not wrong, "\n".join(wrong)


def test_the_corpus_is_large_and_has_every_verdict(directory: Path) -> None:
    verdicts = collections.Counter(case.verdict for case in config_corpus.cases(directory))
    assert sum(verdicts.values()) > 1000
    assert set(verdicts) == {0, 4, 5, 6}
