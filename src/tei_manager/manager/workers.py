"""All multiplexer workers: as many as are wanted, fed, added up, and replaced when they are lost.

The manager holds the listening sockets and hands them to every worker, so a worker that dies
takes no waiting connection with it. What it had counted goes into a base, so that no sum ever
falls; the base is in a file of the run directory, for a next manager that finds workers.

Known flaw
    What a worker counts after its last report is lost if it is killed, and all that it had counted
    if it is killed while there is no manager.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tei_manager.errors import LaunchFailed
from tei_manager.manager.base import Base
from tei_manager.manager.lifecycle import Backoff, Crashes
from tei_manager.manager.link import Link
from tei_manager.manager.takeover import Takeover, log_of
from tei_manager.manager.worker import ACK_LIMIT, READY_LIMIT, Reason, WorkerProcess
from tei_manager.routes import RouteTable
from tei_manager.telemetry.counters import add

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "tei_manager.mux.worker")
"""What a worker is; tests put a stand-in here."""

# The smallest limit of the systems that we support (macOS; Linux has 108), less the final zero.
_SOCKET_PATH_LIMIT = 103

_BACKOFF = Backoff(first=0.1, longest=5.0, stable=10.0)


class Workers:
    """All workers.

    Args:
        count: How many.
        options: The limits of each.
        takeover: The listening sockets, which stay the caller's to close, and workers that are
            there already.
        run_dir: Folder of the control sockets, made with mode 0700.
        log_dir: Folder of their logs.
        command: First arguments of a worker's argv.

    Attributes:
        adopted: Whether some of the workers are an earlier manager's.
        replaced: How many were replaced since the manager started, by reason.
        released: Whether some were left running, at the end.

    Raises:
        LaunchFailed: The path of ``run_dir`` is too long for a Unix socket.

    Ownership:
        `start` makes processes and tasks; `stop` ends them all.
    """

    def __init__(
        self,
        count: int,
        options: dict[str, Any],
        takeover: Takeover,
        run_dir: Path,
        log_dir: Path,
        command: Sequence[str] = COMMAND,
    ) -> None:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if len(os.fsencode(run_dir / "worker-999.sock")) > _SOCKET_PATH_LIMIT:
            raise LaunchFailed(f"The path {run_dir} is too long; shorten [state] path")
        self._count, self._run_dir, self._log_dir = count, run_dir, log_dir
        self._command = [*command, "--config", json.dumps(options)]
        self._listeners = takeover.listeners
        self._found, self._outdated = takeover.workers, takeover.outdated
        self.adopted = bool(takeover.found)
        self.table = RouteTable()
        self.replaced = {str(reason): 0 for reason in Reason}
        self._base = Base(run_dir / "counted.json", self.adopted)
        self._changed = asyncio.Event()
        self._members: dict[WorkerProcess, asyncio.Task[None]] = {}
        self._holders: list[asyncio.Task[None]] = []
        self._ending: list[asyncio.Task[None]] = []
        self.released = False

    def __repr__(self) -> str:
        return f"<Workers: {self.serving} of {self._count} serve table v{self.table.version}>"

    @property
    def links(self) -> list[Link]:
        """Connections to all workers that have said hello and speak our protocol."""
        links = [worker.link for worker in self._members]
        return [link for link in links if link is not None and link.understood]

    @property
    def serving(self) -> int:
        """How many workers take clients now, without those that are to be replaced."""
        return sum(w.takes_clients for w in self._members if w not in self._outdated)

    async def start(self) -> None:
        """Start the workers that are missing; return when all serve and have reported.

        Raises:
            LaunchFailed: One did not come up within `READY_LIMIT`. Those that were started are
                ended; those that were found go on.
        """
        for worker in self._outdated:
            self._attend(worker)
        missing = [None] * (self._count - len(self._found))
        for place in (*self._found, *missing):
            self._holders.append(asyncio.create_task(self._hold(place), name="worker"))
        try:
            async with asyncio.timeout(READY_LIMIT):
                await self._until(
                    lambda: self.serving >= self._count and all(link.report for link in self.links)
                )
        except TimeoutError:
            tail = next((text for w in self._members if (text := w.last_words())), "no output")
            await self._abandon()
            raise LaunchFailed(f"A multiplexer worker does not start: {tail}") from None

    async def _hold(self, worker: WorkerProcess | None) -> None:
        """Keep one place filled, until cancelled; the worker stays for `stop`."""
        crashes = Crashes(_BACKOFF)
        while True:
            born = time.monotonic()
            try:
                reason, how = await self._attend(worker or self._launch()).lost()
            except LaunchFailed as error:
                reason, how = Reason.ENDED, f"cannot be started ({error})"
            worker = None
            crashes.happened(time.monotonic() - born)
            pause = crashes.delay(random.random())  # noqa: S311 - jitter
            self.replaced[reason] += 1
            log.error("Multiplexer worker %s; the next one starts in %.1f s", how, pause)
            await asyncio.sleep(pause)

    def _launch(self) -> WorkerProcess:
        taken = {worker.path for worker in self._members}
        names = (self._run_dir / f"worker-{n}.sock" for n in itertools.count())
        path = next(path for path in names if path not in taken)
        log_file = log_of(path, self._log_dir)
        numbers = [listener.fileno() for listener in self._listeners]
        return WorkerProcess.start(path, log_file, self._command, numbers)

    def _attend(self, worker: WorkerProcess) -> WorkerProcess:
        name = f"attend {worker.path.stem}"
        self._members[worker] = asyncio.create_task(self._follow(worker), name=name)
        return worker

    async def _follow(self, worker: WorkerProcess) -> None:
        """Listen to a worker to its end, and keep what it has counted."""
        await worker.run(lambda: self.table, self.changed)
        if worker.link is not None and worker.link.understood:
            self._base.settle(worker.link.report)
        del self._members[worker]
        self.changed()

    async def replace_outdated(self, grace: float) -> None:
        """Let the workers that cannot stay drain, once the others have the present table.

        Args:
            grace: Seconds that each of them gets for calls under way; they are not waited for.
        """
        if not self._outdated:
            return
        await self.acknowledged(self.table.version)
        for worker in self._outdated:
            self.replaced[Reason.OUTDATED] += 1
            self._ending.append(asyncio.create_task(worker.end(grace), name="end outdated"))

    async def stop(self, grace: float, leave: bool = False) -> None:
        """End all workers.

        Args:
            grace: Seconds that each gets for calls under way.
            leave: Leave them running for the next manager instead; those that drain end first.
        """
        await self._stop_holding()
        if leave:
            await asyncio.gather(*self._ending)
            await self._release(list(self._members))
        await self._end(grace)
        if not self.released:
            self._base.delete()

    async def _abandon(self) -> None:
        """End what was started here, and let what was found go on."""
        await self._stop_holding()
        await self._release([worker for worker in self._members if worker.process.adopted])
        await self._end(0)

    async def _stop_holding(self) -> None:
        for task in self._holders:
            task.cancel()
        await asyncio.gather(*self._holders, return_exceptions=True)

    async def _end(self, grace: float) -> None:
        await asyncio.gather(*(worker.end(grace) for worker in self._members))
        await asyncio.gather(*self._ending, *self._members.values())

    async def _release(self, workers: list[WorkerProcess]) -> None:
        self.released = bool(workers)
        tasks = [self._members.pop(worker) for worker in workers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(worker.release() for worker in workers))

    def kill(self) -> None:
        """Kill all workers at once; `stop` still has to be awaited."""
        for worker in self._members:
            worker.process.kill()

    def publish(self, table: RouteTable) -> None:
        """Send a table to every worker; one that starts later gets it first thing."""
        self.table = table
        for worker in self._members:
            worker.send(table)

    async def acknowledged(self, version: int, limit: float = ACK_LIMIT) -> bool:
        """Wait until every worker that serves has a table of this version or a later one in force.

        Returns:
            Whether that was so within ``limit`` seconds.
        """
        try:
            async with asyncio.timeout(limit):
                await self._until(lambda: all(link.applied >= version for link in self.links))
        except TimeoutError:
            log.warning("A worker did not acknowledge route table %d in time", version)
            return False
        return True

    async def finished(self, key: str, limit: float) -> None:
        """Wait until no worker has a call under way to a process, at most ``limit`` seconds.

        Args:
            key: Of its route, which every worker knows to take no more calls.
            limit: Seconds.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._until(lambda: not any(link.under_way.get(key) for link in self.links))

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def changed(self) -> None:
        """Wake everybody who waits for a worker."""
        self._changed.set()
        self._changed = asyncio.Event()

    def reports(self) -> list[dict[str, Any]]:
        """Return what each worker has counted, and first all that are gone; none changes later."""
        return [self._base.report, *(link.report for link in self.links)]

    def report(self) -> dict[str, Any]:
        """Return the sum of what all workers, past and present, have counted."""
        return functools.reduce(add, self.reports())

    def forget(self, instance: str) -> None:
        """Drop what past workers had counted for an instance that was deleted."""
        self._base.forget(instance)
