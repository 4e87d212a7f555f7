"""Programs in memory, for the rooms that run some: the test says when and how they end."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from holdfast.kernel.programs import Ended, Program


class FakeRun:
    """A program in progress; the test says when it ends."""

    def __init__(self, program: Program, ended: Callable[[Ended], None], variables: Mapping[str, str]) -> None:
        self.program = program
        self.variables = variables
        self.pid: int | None = 1
        self.signals: list[int] = []
        self.over = False
        self._ended = ended

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def end(self, exit_status: int | None = 0, number: int | None = None) -> None:
        assert not self.over
        self.over = True
        self._ended(Ended(exit_status=exit_status, signal=number, took_ns=1_000_000))


class FakePrograms:
    """exclusive: never two runs of the same command at once, which is asserted."""

    def __init__(self, *, exclusive: bool = True) -> None:
        self.runs: list[FakeRun] = []
        self._exclusive = exclusive

    @property
    def unfinished(self) -> list[FakeRun]:
        """What is in progress."""
        return [run for run in self.runs if not run.over]

    def start(
        self, program: Program, ended: Callable[[Ended], None], *, variables: Mapping[str, str] | None = None
    ) -> FakeRun:
        assert not self._exclusive or all(run.program.argv != program.argv for run in self.unfinished)
        self.runs.append(FakeRun(program, ended, variables or {}))
        return self.runs[-1]
