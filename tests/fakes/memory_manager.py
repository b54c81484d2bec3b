"""A registry whose processes, probes and workers are in memory; only its state file is real.

What takes time stands still until a test says otherwise: a process that was asked to end ends when
it is told, one that starts is ready when its watch says so, and pauses after crashes have no end.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast
from unittest.mock import patch

from tei_manager.errors import StateFailed
from tei_manager.manager.flags import KnownFlags
from tei_manager.manager.instance import Record
from tei_manager.manager.launcher import Program
from tei_manager.manager.lifecycle import Backoff, Event
from tei_manager.manager.process import GroupProcess, Runtime
from tei_manager.manager.registry import Registry
from tei_manager.manager.store import Store
from tei_manager.manager.supervisor import Supervisor
from tei_manager.manager.workers import Workers
from tei_manager.routes import RouteTable
from tei_manager.settings import Settings

T = TypeVar("T")

TURNS = 40
"""Of the loop until nothing is left to do: a restart with all its announcements takes half."""

FOREVER = Backoff(first=1e6, longest=1e6, crashes=3, stable=1e9)


class MemoryProcess:
    """A process that does what it is told, and nothing else.

    Args:
        pid: Its number.
        name: Of its instance.
    """

    def __init__(self, pid: int, name: str) -> None:
        self.pid, self.name = pid, name
        self.started_at = datetime.now(UTC)
        self.asked_to_end = False
        self.on_exit: Callable[[], None] = lambda: None
        self.gone = asyncio.Event()

    def runtime(self, kind: str) -> Runtime:
        return Runtime(self.pid, str(self.pid), self.started_at, kind)

    def die(self) -> None:
        """End, for whatever reason."""
        if not self.gone.is_set():
            self.gone.set()
            self.on_exit()

    async def end(self, grace: float) -> None:
        self.asked_to_end = True
        if grace == 0:
            self.die()
        await self.gone.wait()

    def kill(self) -> None:
        self.die()

    def release(self) -> None:
        self.on_exit = lambda: None


class MemoryWatch:
    """What says how a process is: the test."""

    def __init__(self, _rules: Any, _probe: Any, _log: Any, post: Any, _saw: Any) -> None:
        self.post: Callable[[Event, str], None] = post
        self.cancelled = False

    @property
    def owner(self) -> Any:
        """The supervisor that it posts to."""
        return getattr(self.post, "func").__self__  # noqa: B009  # a partial, which its type hides

    def start(self, process: MemoryProcess | None) -> None:
        if process is not None:
            process.on_exit = lambda: self.say(Event.EXITED)

    def say(self, event: Event) -> None:
        """Post an event, unless nobody listens any more."""
        if not self.cancelled:
            self.post(event, "as the test says")

    def cancel(self) -> None:
        self.cancelled = True

    async def close(self) -> None:
        self.cancel()


class MemoryWorkers:
    """Workers that know every table at once and never have a call."""

    adopted = False

    def __init__(self) -> None:
        self.table = RouteTable()

    def publish(self, table: RouteTable) -> None:
        assert table.version > self.table.version
        self.table = table

    async def acknowledged(self, version: int) -> bool:
        return self.table.version >= version

    async def finished(self, _key: str, _limit: float) -> None:
        return

    def forget(self, _name: str) -> None:
        return


class MemoryManager:
    """A registry and the world around it; several follow each other on one state file.

    Args:
        folder: Of the state file.

    Attributes:
        processes: All that were ever started.
        watches: All that there ever were.
        writes: Whether the next ones to the state file go well; all behind them do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pids = itertools.count(1)
        self._runner = asyncio.Runner()
        self.processes: list[MemoryProcess] = []
        self.watches: list[MemoryWatch] = []
        self.writes: list[bool] = []

    def start(self) -> None:
        """Start a manager on what is there."""
        self._do(self._start())

    async def _start(self) -> None:
        settings = Settings.model_validate({"instances": {"log_dir": self._folder / "logs"}})
        self.store = Store(self._folder / "state.db")
        self.store._db.execute("PRAGMA synchronous = OFF")
        self.workers = MemoryWorkers()
        workers: Workers = cast("Any", self.workers)
        self.registry = Registry(settings, self.store, workers, backoff=FOREVER)
        await self.registry.restore()

    def crash(self) -> None:
        """End the manager as SIGKILL does; its processes go on."""
        self._do(self._crash())

    async def _crash(self) -> None:
        for process in self.processes:
            process.release()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.writes = []
        await self.store.close()

    def close(self) -> None:
        """End everything."""
        self.crash()
        self._runner.close()

    def _do(self, work: Any) -> Any:
        result = self._runner.run(work)
        self.settle()
        return result

    def settle(self) -> None:
        """Let everything happen that can."""

        async def turn() -> None:
            for _ in range(TURNS):
                await asyncio.sleep(0)

        self._runner.run(turn())

    def begin(self, work: Any, writes: Sequence[bool] = ()) -> asyncio.Task[Any]:
        """Start something and return it; what takes time may be under way.

        Args:
            work: A coroutine.
            writes: Whether the next ones to the state file go well.
        """
        self.writes = list(writes)

        async def begin() -> asyncio.Task[Any]:
            return asyncio.create_task(work)

        task: asyncio.Task[Any] = self._do(begin())
        return task

    def supervisors(self) -> dict[str, Supervisor]:
        """The instances that exist."""
        return self.registry._supervisors

    def on_disk(self) -> dict[str, Record]:
        """What the state file has."""
        writes, self.writes = self.writes, []
        records: list[Record] = self._runner.run(self.store.records())
        self.writes = writes
        return {record.spec.name: record for record in records}

    def alive(self, name: str) -> list[MemoryProcess]:
        """The processes of an instance."""
        return [each for each in self.processes if each.name == name and not each.gone.is_set()]

    # What takes the place of the real things

    def launch(self, _program: Program, record: Record, *_: Any) -> MemoryProcess:
        process = MemoryProcess(next(self._pids), record.spec.name)
        self.processes.append(process)
        return process

    def watch(self, *given: Any) -> MemoryWatch:
        self.watches.append(MemoryWatch(*given))
        return self.watches[-1]

    def adopt(self, runtime: Runtime | None) -> MemoryProcess | None:
        for process in self.processes:
            if runtime and process.pid == runtime.pid and not process.gone.is_set():
                return process
        return None

    async def write(self, work: Callable[[], T]) -> T:
        if self.writes and not self.writes.pop(0):
            raise StateFailed("the disk is full; nothing was changed")
        return work()


async def _no_flags(*_: Any) -> frozenset[str]:
    return frozenset()


@contextmanager
def memory_manager(folder: Path) -> Iterator[MemoryManager]:
    """A manager in memory; its loop is one of its own."""
    made = MemoryManager(folder)
    manager = "tei_manager.manager"
    router = Program("tei", ("router",))
    with ExitStack() as stack:
        for what, stand_in in (
            ("supervisor.launch", made.launch),
            ("registry.find_program", lambda *_: router),
            ("supervisor.Watch", made.watch),
            ("supervisor.Probe", lambda *_: None),
            ("ports.is_free", lambda *_: True),
        ):
            stack.enter_context(patch(f"{manager}.{what}", stand_in))
        stack.enter_context(patch.object(GroupProcess, "adopt", made.adopt))
        stack.enter_context(patch.object(KnownFlags, "of", _no_flags))
        stack.enter_context(patch.object(Store, "_run", lambda _store, work: made.write(work)))
        made.start()
        stack.callback(made.close)
        yield made
