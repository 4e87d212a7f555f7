"""`keepalived -t` (Debian's 2.2.7) and holdfast read the same files and come to the same verdict.

The corpus, the samples that come with keepalived, and seeded mutations of both. What may differ is in
docs/compatibility.md; here it is kept apart by what keepalived itself does: it ends at once for a missing word (2),
kills itself over other users' scripts (SIGTERM), crashes (SIGSEGV) or never ends (killed).
"""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import config_corpus
import pytest

pytestmark = [pytest.mark.peer, pytest.mark.timeout(500)]
KEEPALIVED = shutil.which("keepalived", path="/usr/sbin:/usr/bin") or "/usr/sbin/keepalived"
MUTATIONS = 400
MISSING_WORD = 2
SEED = int(os.environ.get("HOLDFAST_SEED", "20261124"))


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """A network namespace with eth0 to eth3."""
    name = f"hf-verdict-{os.getpid()}"
    _ip("netns", "add", name)
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        for first, second in (("eth0", "eth1"), ("eth2", "eth3")):
            _ip("-n", name, "link", "add", first, "type", "veth", "peer", "name", second)
            _ip("-n", name, "link", "set", first, "up")
            _ip("-n", name, "link", "set", second, "up")
        _ip("-n", name, "address", "add", "192.0.2.1/24", "dev", "eth0")
        _ip("-n", name, "address", "add", "192.0.3.1/24", "dev", "eth1")
        yield name
    finally:
        _ip("netns", "delete", name)


# One shell for many files: starting three programs for each would take longer than the checks. What never ends is
# killed after two seconds of processor time.
_SCRIPT = """ulimit -t 2
while read -r path; do "$KEEPALIVED" -t -f "$path" > "$path.said" 2>&1; echo $?; done"""


def _keepalived(namespace: str, paths: list[Path]) -> list[tuple[int, str]]:
    """keepalived's verdicts and complaints, in the order of the files."""
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, "bash", "-c", _SCRIPT],
        input="".join(f"{path}\n" for path in paths),
        env={**os.environ, "KEEPALIVED": KEEPALIVED},
        capture_output=True,
        check=True,
        text=True,
    )
    verdicts = [int(line) for line in done.stdout.split()]
    assert len(verdicts) == len(paths)
    said = [Path(f"{path}.said").read_text(errors="replace") for path in paths]
    return list(zip(verdicts, said, strict=True))


def _compare(namespace: str, files: list[tuple[str, Path]]) -> None:
    """Fails with both sides' complaints for every file on which the verdicts differ."""
    paths = [path for _, path in files]
    half = len(paths) // 2
    with ThreadPoolExecutor(2) as pool:
        halves = pool.map(lambda some: _keepalived(namespace, some), (paths[:half], paths[half:]))
        theirs = list(itertools.chain.from_iterable(halves))
    script = Path(__file__).with_name("verdicts.py")
    done = subprocess.run(
        ["ip", "netns", "exec", namespace, sys.executable, str(script), *(str(path) for _, path in files)],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wrong = []
    for (name, path), (verdict, said), (ours, complaints) in zip(files, theirs, json.loads(done.stdout), strict=True):
        if verdict > 128:
            continue
        same = (verdict == 0) == (ours == 0) if verdict == MISSING_WORD else _same_class(verdict, ours, path)
        if not same:
            wrong.append(
                f"{name}: keepalived {verdict}, holdfast {ours}\n  {said.strip()}\n  " + "\n  ".join(complaints)
            )
    assert not wrong, f"{len(wrong)} differ (seed {SEED})\n" + "\n".join(wrong)


def _same_class(theirs: int, ours: int, path: Path) -> bool:
    """0 must be the same; 5 and 6 may be mixed up only in mutations, where a broken block can hide a script."""
    if path.name.startswith("mutation"):
        return (theirs == 0) == (ours == 0)
    return theirs == ours


def test_the_corpus(namespace: str, tmp_path: Path) -> None:
    directory = config_corpus.make_directory(tmp_path / "corpus")
    files = []
    for number, case in enumerate(config_corpus.cases(directory)):
        path = directory / f"case{number}.conf"
        path.write_bytes(case.text.encode())
        if not case.accepted:
            files.append((f"{case.file}: {case.name}", path))
    assert len(files) > 1000
    _compare(namespace, files)


def _samples() -> list[Path]:
    return sorted(path for path in config_corpus.SAMPLES.glob("keepalived.conf*") if path.is_file())


def test_the_samples_of_keepalived(namespace: str, tmp_path: Path) -> None:
    files = [(path.name, Path(shutil.copy(path, tmp_path / path.name))) for path in _samples()]
    assert len(files) >= 20
    _compare(namespace, files)


def test_mutations(namespace: str, tmp_path: Path) -> None:
    directory = config_corpus.make_directory(tmp_path / "mutations")
    chance = random.Random(SEED)
    texts = [path.read_text(errors="replace") for path in _samples()] * 8
    # What docs/compatibility.md names as a difference would be found again and again.
    apart = ("net_namespace", "\\#", "\\!", "_HASH", "_BANG", "x" * 1000)
    texts += [case.text for case in config_corpus.cases(directory) if not any(word in case.text for word in apart)]
    words = sorted({word for text in texts for word in text.split() if len(word) < 40})
    words = [word for word in words if not word.startswith("include")]
    files = []
    for number in range(MUTATIONS):
        path = directory / f"mutation{number}.conf"
        path.write_text(_mutated(chance.choice(texts), words, chance), errors="replace")
        files.append((path.name, path))
    _compare(namespace, files)


def _mutated(text: str, words: list[str], chance: random.Random) -> str:
    """The text with one to three small accidents."""
    lines = text.split("\n")
    for _ in range(chance.choice((1, 1, 2, 3))):
        at = chance.randrange(len(lines))
        line = lines[at]
        match chance.randrange(7):
            case 0:
                del lines[at]
            case 1:
                lines.insert(at, lines[chance.randrange(len(lines))])
            case 2:
                parts = line.split(" ")
                parts[chance.randrange(len(parts))] = chance.choice(words)
                lines[at] = " ".join(parts)
            case 3:
                parts = line.split(" ")
                del parts[chance.randrange(len(parts))]
                lines[at] = " ".join(parts)
            case 4:
                place = chance.randrange(len(line) + 1)
                lines[at] = line[:place] + chance.choice("{}\"'#~@ 0-1x/:.") + line[place:]
            case 5:
                lines[at] = f"{line} {chance.choice(words)}"
            case 6:
                numbers = ("0", "1", "255", "256", "65536", "-1", "10000000000")
                lines[at] = re.sub(r"\d+", chance.choice(numbers), line, count=1)
        lines = lines or [""]
    return "\n".join(lines)
