"""The process that starts other people's programs for a cell. Run as a file of its own, with the standard library only.

Why it exists: a cell may be a real-time process with much locked memory. Forking it costs milliseconds of page tables
and copies, and waiting in vfork for a child that ordinary scheduling has to run is worse. This process is small and
ordinary: forking it is cheap, it delays nobody, and what it starts inherits neither priority, nor descriptors, nor
signal masks. Its counterpart is `programs.py`.

Messages are marshalled tuples on a SOCK_SEQPACKET socket, descriptor 3:
    ("start", token, path, argv, environment, uid, gid, groups, umask)    uid None: as we are
    ("signal", token, signal number)                               to the process group of the run
and back:
    ("failed", token, errno, operation)         it could not be started
    ("started", token, pid)
    ("ended", token, wait status, nanoseconds)
When the socket closes, whatever still runs gets TERM, and half a second later KILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import marshal
import os
import resource
import select
import signal
import socket
import sys
import time

SOCKET_FD = 3
LARGEST_MESSAGE = 1 << 20
LAST_GRACE_S = 0.5
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Run:
    """One program in progress. complaint: a pipe on which the child says what kept it from exec, if anything did.
    signalled: we asked it to end."""

    __slots__ = ("complaint", "pid", "pidfd", "signalled", "started_ns", "token")

    def __init__(self, token: int, pid: int, pidfd: int, complaint: int, started_ns: int) -> None:
        self.token = token
        self.pid = pid
        self.pidfd = pidfd
        self.complaint = complaint
        self.started_ns = started_ns
        self.signalled = False


class Host:
    """Reads orders, starts programs, tells how they ended."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._by_token: dict[int, Run] = {}
        self._by_pidfd: dict[int, Run] = {}
        self._poll = select.poll()
        self._poll.register(channel, select.POLLIN)
        self._own_pid = os.getpid()
        # Two descriptors for each program in progress; the programs themselves get the limit that we were given.
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._descriptors[1], self._descriptors[1]))

    def serve(self) -> None:
        """Until the other side closes."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor in self._by_pidfd:
                    self._reap(self._by_pidfd[descriptor])
                elif not self._order():
                    self._end_all()
                    return

    def _order(self) -> bool:
        try:
            message = self._channel.recv(LARGEST_MESSAGE)
        except OSError:
            return False
        if not message:
            return False
        order = marshal.loads(message)
        if order[0] == "start":
            self._start(*order[1:])
        else:
            self._signal(order[1], order[2])
        return True

    def _tell(self, *message: str | int) -> None:
        with contextlib.suppress(OSError):  # nobody is left to be told; the next read says so
            self._channel.send(marshal.dumps(message))

    def _start(
        self,
        token: int,
        path: bytes,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        uid: int | None,
        gid: int,
        groups: list[int],
        umask: int,
    ) -> None:
        # Nobody waits for the child to reach exec: a hundred scripts that are due at once start side by side.
        try:
            read_end, write_end = os.pipe2(os.O_CLOEXEC)
        except OSError as error:
            self._tell("failed", token, error.errno or 0, "pipe")
            return
        started_ns = time.monotonic_ns()
        try:
            pid = os.fork()
        except OSError as error:
            os.close(read_end)
            os.close(write_end)
            self._tell("failed", token, error.errno or 0, "fork")
            return
        if pid == 0:
            self._become(write_end, path, argv, environment, uid, gid, groups, umask)
        os.close(write_end)
        run = Run(token, pid, os.pidfd_open(pid), read_end, started_ns)
        self._by_token[token] = run
        self._by_pidfd[run.pidfd] = run
        self._poll.register(run.pidfd, select.POLLIN)
        self._tell("started", token, pid)

    def _become(
        self,
        write_end: int,
        path: bytes,
        argv: list[bytes],
        environment: dict[bytes, bytes],
        uid: int | None,
        gid: int,
        groups: list[int],
        umask: int,
    ) -> None:
        """In the child: never returns."""
        operation = "setpgid"
        try:
            os.setpgid(0, 0)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            operation = "/dev/null"
            null = os.open("/dev/null", os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)
            if null > 2:
                os.close(null)
            os.umask(umask)
            operation = "chdir"
            os.chdir("/")
            if uid is not None:
                operation = "setgroups"
                os.setgroups(groups)
                operation = "setgid"
                os.setresgid(gid, gid, gid)
                operation = "setuid"
                os.setresuid(uid, uid, uid)
            # After the change of user, which clears it. If we died in between nobody would signal the child.
            self._prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            if os.getppid() != self._own_pid:
                os._exit(126)
            resource.setrlimit(resource.RLIMIT_NOFILE, self._descriptors)
            operation = "exec"
            os.execve(path, argv, environment)
        except (OSError, ValueError) as error:
            code = error.errno or 0 if isinstance(error, OSError) else errno.EINVAL
            os.write(write_end, b"%d %s" % (code, operation.encode()))
        finally:
            os._exit(127)

    def _signal(self, token: int, number: int) -> None:
        run = self._by_token.get(token)
        if run is None:
            return  # it ended while the order was on its way
        run.signalled = True
        try:
            os.killpg(run.pid, number)
        except OSError as error:
            print(f"holdfast: signal {number} to process group {run.pid}: {error}", file=sys.stderr)

    def _reap(self, run: Run) -> None:
        took_ns = time.monotonic_ns() - run.started_ns
        if run.signalled:
            # What is left of a run that we ended are its children. Its number is ours until it is reaped.
            with contextlib.suppress(OSError):  # nothing is left
                os.killpg(run.pid, signal.SIGKILL)
        _, status = os.waitpid(run.pid, 0)
        self._poll.unregister(run.pidfd)
        os.close(run.pidfd)
        del self._by_token[run.token], self._by_pidfd[run.pidfd]
        complaint = os.read(run.complaint, 64)
        os.close(run.complaint)
        if complaint:
            number, _, operation = complaint.partition(b" ")
            self._tell("failed", run.token, int(number), operation.decode())
        else:
            self._tell("ended", run.token, status, took_ns)

    def _end_all(self) -> None:
        self._poll.unregister(self._channel)
        self._channel.close()
        deadline = time.monotonic() + LAST_GRACE_S
        for token in list(self._by_token):
            self._signal(token, signal.SIGTERM)
        while self._by_pidfd:
            left_ms = max(0, int((deadline - time.monotonic()) * 1000))
            ready = self._poll.poll(left_ms)
            for descriptor, _ in ready:
                self._reap(self._by_pidfd[descriptor])
            if not ready:
                for token in list(self._by_token):
                    self._signal(token, signal.SIGKILL)
                deadline = time.monotonic() + LAST_GRACE_S


def main() -> None:
    """Descriptor 3 is the socket of the cell."""
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    if os.getpriority(os.PRIO_PROCESS, 0) != 0:
        with contextlib.suppress(PermissionError):  # a lower priority than usual, without the right to raise it
            os.setpriority(os.PRIO_PROCESS, 0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the cell stops us by closing the socket
    os.closerange(SOCKET_FD + 1, 1 << 20)  # whatever the cell was given by careless parents
    os.set_inheritable(SOCKET_FD, False)
    Host(socket.socket(fileno=SOCKET_FD)).serve()


if __name__ == "__main__":
    main()
