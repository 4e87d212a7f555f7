"""Real programs through the real helper process."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from holdfast.kernel.programs import Ended, Program, ProgramRunner, Run

Play = Callable[[Callable[[], Coroutine[None, None, None]]], None]


@asynccontextmanager
async def a_runner(**options: object) -> AsyncIterator[ProgramRunner]:
    runner = ProgramRunner(asyncio.get_running_loop(), **options)  # type: ignore[arg-type]
    try:
        yield runner
    finally:
        await runner.close()


def launch(
    runner: ProgramRunner, program: Program, variables: dict[str, str] | None = None
) -> tuple[Run, Awaitable[Ended]]:
    future: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
    return runner.start(program, future.set_result, variables=variables), asyncio.wait_for(future, 20)


def shell(text: str, **options: object) -> Program:
    return Program(path="/bin/sh", argv=("sh", "-c", text), **options)  # type: ignore[arg-type]


async def appears(path: Path) -> str:
    """The content of a file as soon as it has any."""
    for _ in range(2000):
        if path.exists() and (text := path.read_text()):
            return text
        await asyncio.sleep(0.005)
    raise AssertionError(f"{path} never came")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Play:
    """Runs a story on a loop of either kind."""
    if request.param == "uvloop":
        factory = pytest.importorskip("uvloop").new_event_loop
    else:
        factory = asyncio.new_event_loop

    def play(test: Callable[[], Coroutine[None, None, None]]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test())

    return play


def test_exit_status_signal_and_what_cannot_be_started(tmp_path: Path, run: Play) -> None:
    async def story() -> None:
        async with a_runner() as runner:
            assert (await launch(runner, shell("exit 0"))[1]).ok
            ended = await launch(runner, shell("exit 7"))[1]
            assert (ended.exit_status, ended.signal, ended.problem) == (7, None, None)
            assert ended.took_ns > 0
            assert (await launch(runner, shell("kill -SEGV $$"))[1]).signal == signal.SIGSEGV
            missing = await launch(runner, Program(path=str(tmp_path / "none"), argv=("none",)))[1]
            assert missing.problem == "exec: No such file or directory"
            text = tmp_path / "text"
            text.write_text("no program\n")
            text.chmod(0o755)
            unfit = await launch(runner, Program(path=str(text), argv=("text",)))[1]
            assert unfit.problem == "exec: Exec format error"
            too_long = await launch(runner, shell("true", **{}), {"X": "x" * (2 << 20)})[1]
            assert too_long.problem == "its command line and environment are too long"
            assert runner.running == 0 and runner.helper_starts == 1

    run(story)


def test_what_a_program_finds_around_itself(tmp_path: Path, run: Play) -> None:
    out = tmp_path / "out"
    text = (
        "import json,os,sys,signal\n"
        "json.dump({'argv': sys.argv[1:], 'env': dict(os.environ), 'pgid': os.getpgid(0), 'pid': os.getpid(),"
        " 'fds': sorted(os.listdir('/proc/self/fd')), 'stdin': os.readlink('/proc/self/fd/0'),"
        " 'status': open('/proc/self/status').read(), 'policy': os.sched_getscheduler(0),"
        " 'nice': os.getpriority(os.PRIO_PROCESS, 0), 'cwd': os.getcwd(), 'umask': os.umask(0)},"
        " open(sys.argv[1], 'w'))\n"
    )

    async def story() -> None:
        environment = {"PATH": "/bin", "IFS": "x", "LD_PRELOAD": "", "NOTIFY_SOCKET": "/n", "KEEP": "me"}
        async with a_runner(environment=environment) as runner:
            program = Program(path="/usr/bin/python3", argv=("python3", "-c", text, str(out), "a b", "ü"), umask=0o137)
            assert (await launch(runner, program, {"HOLDFAST_REASON": "{}"})[1]).ok

    run(story)
    import json

    seen = json.loads(out.read_text())
    assert seen["argv"][1:] == ["a b", "ü"]
    environment = {name: value for name, value in seen["env"].items() if name != "LC_CTYPE"}  # python's own addition
    assert environment == {"PATH": "/bin", "KEEP": "me", "HOLDFAST_REASON": "{}"}
    assert seen["pgid"] == seen["pid"]
    assert seen["stdin"] == "/dev/null" and seen["cwd"] == "/"
    # 0, 1, 2, the file it writes and the directory it lists: nothing of ours.
    assert len(seen["fds"]) <= 5
    assert seen["umask"] == 0o137
    assert (seen["policy"], seen["nice"]) == (os.SCHED_OTHER, 0)
    masks = dict(line.split(":\t") for line in seen["status"].splitlines() if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) == 0
    # Python ignores these two itself; 32 and 33 belong to the C library, whose posix_spawn leaves them ignored.
    usual = sum(1 << (number - 1) for number in (signal.SIGPIPE, signal.SIGXFSZ, 32, 33))
    ignored = int(masks["SigIgn"], 16) & ~usual
    assert ignored == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_program_runs_as_the_user_it_should(tmp_path: Path, run: Play) -> None:
    tmp_path.chmod(0o777)
    out = tmp_path / "out"

    async def story() -> None:
        async with a_runner() as runner:
            # PATH is given: bare `id` is looked up by the shell.
            ended = await launch(
                runner, shell(f"id -u; (id -u; id -g; id -G) > {out}", uid=65534, gid=65534, groups=(7,))
            )[1]
            assert ended.ok

    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/") and not parent.stat().st_mode & stat.S_IXOTH:
            parent.chmod(parent.stat().st_mode | 0o011)
    run(story)
    assert out.read_text().split("\n")[:2] == ["65534", "65534"]
    assert sorted(out.read_text().split("\n")[2].split()) == ["65534", "7"]


def test_term_reaches_the_group_and_kill_what_ignores_it(tmp_path: Path, run: Play) -> None:
    ready, child = tmp_path / "ready", tmp_path / "child"

    async def story() -> None:
        async with a_runner() as runner:
            text = f"trap '' TERM; sh -c 'echo $$ > {child}; exec sleep 60' & echo x > {ready}; "
            text += "while :; do sleep 0.05; done"
            handle, ended = launch(runner, shell(text))
            await appears(ready)
            handle.signal(signal.SIGTERM)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(ended)), 0.2)
            assert runner.running == 1
            handle.signal(signal.SIGKILL)
            await runner.settled(5)
            handle.signal(signal.SIGKILL)  # to one that is gone: nothing happens
            descendant = int(await appears(child))
            await gone(descendant)

    run(story)


def test_children_of_a_program_that_heeds_term_die_with_it(tmp_path: Path, run: Play) -> None:
    child = tmp_path / "child"

    async def story() -> None:
        async with a_runner() as runner:
            handle, ended = launch(
                runner, shell(f"sh -c 'trap \"\" TERM; echo $$ > {child}; sleep 60; sleep 60' & wait")
            )
            descendant = int(await appears(child))
            handle.signal(signal.SIGTERM)
            assert (await ended).signal == signal.SIGTERM
            await gone(descendant)

    run(story)


async def gone(pid: int) -> None:
    """Waits until no such process lives (a zombie that init has not reaped yet does not)."""
    for _ in range(1000):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"process {pid} is still there")


def test_close_ends_what_runs(tmp_path: Path, run: Play) -> None:
    ready = tmp_path / "ready"

    async def story() -> None:
        runner = ProgramRunner(asyncio.get_running_loop())
        _, ended = launch(runner, shell(f"trap '' TERM; echo $$ > {ready}; while :; do sleep 0.05; done"))
        pid = int(await appears(ready))
        began = time.monotonic()
        await runner.close()
        assert time.monotonic() - began < 3
        assert (await ended).problem == "the daemon stops"
        await gone(pid)

    run(story)


def test_a_helper_that_dies_is_replaced(tmp_path: Path, run: Play) -> None:
    ready = tmp_path / "ready"

    async def story() -> None:
        async with a_runner() as runner:
            handle, ended = launch(runner, shell(f"echo $PPID > {ready}; exec sleep 60"))
            helper = int(await appears(ready))
            while handle.pid is None:
                await asyncio.sleep(0.001)
            pid = handle.pid
            os.kill(helper, signal.SIGKILL)
            assert (await ended).problem == "the script helper died"
            await gone(pid)  # PDEATHSIG
            assert (await launch(runner, shell("exit 3"))[1]).exit_status == 3
            assert runner.helper_starts == 2

    run(story)


def test_hundreds_at_once(run: Play) -> None:
    async def story() -> None:
        async with a_runner() as runner:
            began = time.monotonic()
            waits = [launch(runner, shell(f"exit {number % 5}"))[1] for number in range(300)]
            blocked = time.monotonic() - began
            results = await asyncio.gather(*waits)
            assert [result.exit_status for result in results] == [number % 5 for number in range(300)]
            assert blocked < 1.0  # queueing orders does not wait for programs to start

    run(story)
