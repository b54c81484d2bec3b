"""A program in a process group of its own: started or found again, watched, ended as a whole.

The end of a process is noticed by the system (a pidfd on Linux, a kqueue elsewhere), at once and
without a thread. What its leader leaves behind is killed before the leader is reaped: as long as
it is a zombie, its number cannot belong to anybody else.

A manager that was killed leaves its instances running. The next one finds them by number and time
of birth (`Runtime`) and goes on with them (`GroupProcess.adopt`); as it is not their parent, their
exit code is unknown to it.

Known flaws
    The group of an adopted process is killed by its number after init has reaped the
    leader; if the group is empty, the number could be another's by then, which would take
    thousands of new processes within a millisecond.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tei_manager.errors import LaunchFailed
from tei_manager.manager.logfile import LogFile


@dataclass(frozen=True, slots=True)
class Runtime:
    """What identifies a process over restarts of the manager, though not over one of the machine.

    Args:
        pid: Its number.
        birth: When it was born, as the system says it, with the system's own start.
        started_at: When it was started, in UTC.
        kind: What it is: ``tei`` or ``engine``.
    """

    pid: int
    birth: str
    started_at: datetime
    kind: str


class GroupProcess:
    """A running program in a session of its own.

    Args:
        pid: Of the program; also the number of its group.
        child: The handle that reaps it, ``None`` for an adopted process.
        started_at: When it was started, in UTC.

    Ownership:
        Made by `start` or `adopt`; whoever holds it must `end` or `release` it.
    """

    def __init__(
        self, pid: int, child: subprocess.Popen[bytes] | None, started_at: datetime
    ) -> None:
        self.pid = pid
        self.started_at = started_at
        self._child = child
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._exit = _exit_descriptor(pid)
        self._loop.add_reader(self._exit, self._on_exit)

    def __repr__(self) -> str:
        return f"<GroupProcess {self.pid}: {self._words() if self._ended.is_set() else 'runs'}>"

    @classmethod
    def start(
        cls, command: list[str], env: dict[str, str], log: LogFile, pass_fds: tuple[int, ...] = ()
    ) -> GroupProcess:
        """Start a program with its output in a log file.

        The files that it makes are its user's alone, and of ours it has ``pass_fds`` only.

        Raises:
            LaunchFailed: The program or its log file cannot be opened.
        """
        try:
            output = log.open()
            try:
                child = subprocess.Popen(  # noqa: S603 - a list, see manager/launcher.py
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=env,
                    start_new_session=True,
                    pass_fds=pass_fds,
                    umask=0o077,
                )
            finally:
                os.close(output)
        except OSError as error:
            raise LaunchFailed(f"Cannot start '{command[0]}' ({error})") from error
        try:
            return cls(child.pid, child, datetime.now(UTC))
        except OSError as error:
            child.kill()
            child.wait()
            raise LaunchFailed(f"Cannot watch '{command[0]}' ({error})") from error

    @classmethod
    def adopt(cls, runtime: Runtime | None) -> GroupProcess | None:
        """Return the process of an earlier manager, if it still runs and is the same."""
        if runtime is None or not runtime.birth or birth_of(runtime.pid) != runtime.birth:
            return None
        try:
            return cls(runtime.pid, None, runtime.started_at)
        except ProcessLookupError:
            return None

    @classmethod
    def find(cls, pid: int) -> GroupProcess | None:
        """Return a process that somebody else started, by a number that the caller is sure of."""
        return cls.adopt(Runtime(pid, birth_of(pid), datetime.now(UTC), ""))

    @property
    def adopted(self) -> bool:
        """Whether somebody else started it."""
        return self._child is None

    def runtime(self, kind: str) -> Runtime:
        """Return what the next manager needs in order to find the process again."""
        return Runtime(self.pid, birth_of(self.pid), self.started_at, kind)

    async def wait(self) -> str:
        """Return in words how the program ended, once it has; its children are gone by then."""
        await self._ended.wait()
        return self._words()

    def _words(self) -> str:
        if self._child is None:
            return "ended; its exit code is unknown, as an earlier manager started it"
        code = self._child.returncode
        if code >= 0:
            return f"exited with code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"was ended by signal {-code}"

    async def end(self, grace: float) -> None:
        """End the whole group: SIGTERM, after ``grace`` seconds SIGKILL.

        Args:
            grace: Seconds; 0 kills at once.

        Cancellation:
            Kills the group before it is passed on.
        """
        try:
            if grace > 0 and not self._ended.is_set():
                self._signal(signal.SIGTERM)
                self._signal(signal.SIGCONT)  # one that is stopped would not hear it
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), grace)
        finally:
            self.kill()
        await self._ended.wait()

    def terminate(self) -> None:
        """Send the whole group SIGTERM, as `end` does, and return at once."""
        if not self._ended.is_set():
            self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the whole group at once; `end` still has to be awaited."""
        if not self._ended.is_set():
            self._signal(signal.SIGKILL)

    def release(self) -> None:
        """Let the process run on without us."""
        if not self._ended.is_set():
            self._forget_exit()

    def _on_exit(self) -> None:
        self._forget_exit()
        self._signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()
        self._ended.set()

    def _forget_exit(self) -> None:
        self._loop.remove_reader(self._exit)
        os.close(self._exit)

    def _signal(self, number: signal.Signals) -> None:
        # PermissionError: macOS says so of a group in which only zombies are left.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


def _exit_descriptor(pid: int) -> int:
    """Return a descriptor that turns readable when the process ends; the caller closes it.

    Raises:
        ProcessLookupError: There is no such process.
    """
    if sys.platform == "linux":
        return os.pidfd_open(pid)
    queue = select.kqueue()
    event = select.kevent(
        pid, select.KQ_FILTER_PROC, select.KQ_EV_ADD | select.KQ_EV_ONESHOT, select.KQ_NOTE_EXIT
    )
    with contextlib.closing(queue):
        queue.control([event], 0)
        return os.dup(queue.fileno())


def birth_of(pid: int) -> str:
    """Return when a process was born, as text to compare; empty for none, and for a zombie."""
    try:
        if sys.platform == "linux":
            # After the name, which may hold anything: the state, and 19 fields on the start time,
            # counted from the start of the machine.
            fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2]
            state, start = fields.split()[0], fields.split()[19]
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
            return "" if state in "ZX" else f"{boot} {start}"
        command = ["ps", "-o", "stat=", "-o", "lstart=", "-p", str(pid)]
        answer = subprocess.run(  # noqa: S603 - a list, of a number and constants
            command, capture_output=True, text=True, check=False
        )
        state, _, start = answer.stdout.strip().partition(" ")
        return "" if state.startswith("Z") else start.strip()
    except OSError:
        return ""
