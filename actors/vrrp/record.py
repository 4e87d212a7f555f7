"""Sessions on file: what a machine was told and what it ordered, to be replayed by tests and `holdfast replay`.

One JSON object a line. The first is `{"instance": ..., "options": ...}`, each other one
`{"at": NANOSECONDS, "fact": {"type": NAME, ...}, "actions": [{"type": NAME, ...}], "state": ..., "deadline": ...}`
with instants as the recording host's monotonic clock had them. A bug in the field becomes such a file first.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from holdfast.actors.runtime.machine import Action, Fact, Instant
from holdfast.actors.vrrp import facts as fact_types
from holdfast.actors.vrrp.config import VrrpInstance
from holdfast.actors.vrrp.machine import VrrpMachine
from holdfast.actors.vrrp.options import MachineOptions

FACTS: dict[str, type[Fact]] = {
    name: value
    for name in fact_types.__all__
    if isinstance(value := getattr(fact_types, name), type) and issubclass(value, Fact)
}


def named(value: msgspec.Struct) -> dict[str, Any]:
    """A fact or an action as plain data with its type's name."""
    return {"type": type(value).__name__, **msgspec.to_builtins(value)}


class Recorder:
    """Writes the session of one machine. Not for the default configuration: it costs more than the machine itself."""

    def __init__(self, file: IO[bytes], instance: VrrpInstance, options: MachineOptions) -> None:
        self._file = file
        self._write({"instance": msgspec.to_builtins(instance), "options": msgspec.to_builtins(options)})

    @classmethod
    def open(cls, folder: Path, instance: VrrpInstance, options: MachineOptions) -> Recorder:
        """A new file for this instance in `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in instance.name)
        return cls((folder / f"{name}.jsonl").open("wb"), instance, options)

    def note(self, machine: VrrpMachine, fact: Fact, now: Instant, actions: Iterable[Action]) -> None:
        """One step."""
        self._write(
            {
                "at": now,
                "fact": named(fact),
                "actions": [named(action) for action in actions],
                "state": machine.state,
                "deadline": machine.deadline,
            }
        )

    def close(self) -> None:
        """The file is complete."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(msgspec.json.encode(line) + b"\n")
        self._file.flush()


class Step(msgspec.Struct, frozen=True):
    """One replayed step. wanted: the actions on file; got: those of the machine now."""

    at: Instant
    fact: Fact
    wanted: list[dict[str, Any]]
    got: list[dict[str, Any]]
    state: str

    @property
    def same(self) -> bool:
        """The machine does today what it did then."""
        return self.wanted == self.got


class SessionError(Exception):
    """A file that is no session; the text names the line."""


def replay(data: bytes) -> Iterator[Step]:
    """Runs a session through a new machine, step by step. Raises SessionError."""
    lines = data.splitlines()
    machine: VrrpMachine | None = None
    seen: dict[bytes, Fact] = {}
    for number, text in enumerate(lines, 1):
        try:
            line = msgspec.json.decode(text)
            if machine is None:
                instance = msgspec.convert(line["instance"], VrrpInstance)
                machine = VrrpMachine(instance, msgspec.convert(line["options"], MachineOptions))
                continue
            fields = dict(line["fact"])
            kind = FACTS[fields.pop("type")]
            # The shell hands the same object in while a packet's bytes are the same.
            key = msgspec.json.encode(line["fact"])
            fact = seen.get(key) or msgspec.convert(fields, kind)
            seen[key] = fact
            at = Instant(line["at"])
            wanted = line["actions"]
        except (msgspec.MsgspecError, KeyError, TypeError) as error:
            raise SessionError(f"line {number}: {error!r}") from None
        got = msgspec.json.decode(msgspec.json.encode([named(action) for action in machine.step(fact, at)]))
        yield Step(at, fact, wanted, got, str(machine.state))
    if machine is None:
        raise SessionError("the file is empty")


def record_of(steps: Iterable[tuple[Fact, Instant]], instance: VrrpInstance, options: MachineOptions) -> bytes:
    """The session of a new machine that is told these facts: for tests that make their own."""
    file = io.BytesIO()
    recorder = Recorder(file, instance, options)
    machine = VrrpMachine(instance, options)
    for fact, now in steps:
        recorder.note(machine, fact, now, machine.step(fact, now))
    return file.getvalue()
