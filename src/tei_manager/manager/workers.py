"""Starts, feeds and replaces the multiplexer workers.

The manager holds the one listening socket and hands it to every worker, so a worker that dies
takes no waiting connection with it. A worker that dies is replaced after a back-off, and what it
had counted goes into a base, so that no sum ever falls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tei_manager.errors import LaunchFailed
from tei_manager.manager.lifecycle import Backoff, Crashes
from tei_manager.manager.link import Link
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.process import GroupProcess
from tei_manager.routes import RouteTable
from tei_manager.telemetry.counters import add, settled, without

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "tei_manager.mux.worker")
"""What a worker is; tests put a stand-in here."""

# Importing takes a second on a busy machine with two cores; ten are generous.
READY_LIMIT = 10.0

# How long anybody waits for an acknowledgement: a worker answers within one turn of its loop.
ACK_LIMIT = 2.0

# The smallest limit of the systems that we support (macOS; Linux has 108), less the final zero.
_SOCKET_PATH_LIMIT = 103

_BACKOFF = Backoff(first=0.1, longest=5.0, stable=10.0)


class Workers:
    """All workers.

    Args:
        count: How many.
        options: The JSON document of ``--config``.
        listener: The listening socket of the multiplexer; stays the caller's to close.
        run_dir: Folder of the control sockets, made with mode 0700.
        log_dir: Folder of their logs.
        command: First arguments of a worker's argv.

    Raises:
        LaunchFailed: The path of ``run_dir`` is too long for a Unix socket.

    Ownership:
        `start` makes processes and tasks; `stop` ends them all.
    """

    def __init__(
        self,
        count: int,
        options: dict[str, Any],
        listener: socket.socket,
        run_dir: Path,
        log_dir: Path,
        command: Sequence[str] = COMMAND,
    ) -> None:
        run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._slots = [
            Slot(run_dir / f"worker-{n}.sock", LogFile(log_dir / f"mux-worker-{n}.log"), self)
            for n in range(count)
        ]
        for slot in self._slots:
            if len(os.fsencode(slot.path)) > _SOCKET_PATH_LIMIT:
                raise LaunchFailed(f"The path {slot.path} is too long; shorten [state] path")
        self.listener = listener
        self.arguments = [*command, "--listen-fd", str(listener.fileno())]
        self.config = json.dumps(options)
        self.table = RouteTable()
        self.base: dict[str, Any] = {}
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def __repr__(self) -> str:
        return f"<Workers: {self.serving} of {len(self._slots)} serve table v{self.table.version}>"

    @property
    def links(self) -> list[Link]:
        """Connections to the workers that have said hello."""
        links = [slot.link for slot in self._slots]
        return [link for link in links if link is not None and link.applied >= 0]

    @property
    def serving(self) -> int:
        """How many workers serve now."""
        return len(self.links)

    async def start(self) -> None:
        """Start all workers and return when each of them serves.

        Raises:
            LaunchFailed: One did not come up within `READY_LIMIT`; none is left running.
        """
        self._tasks = [asyncio.create_task(slot.run(), name="worker") for slot in self._slots]
        try:
            async with asyncio.timeout(READY_LIMIT):
                await self._until(lambda: self.serving == len(self._slots))
        except TimeoutError:
            await self.stop(0)
            tail = next((text for slot in self._slots if (text := slot.last_words())), "no output")
            raise LaunchFailed(f"A multiplexer worker does not start: {tail}") from None
        except asyncio.CancelledError:
            await self.stop(0)
            raise

    async def stop(self, grace: float) -> None:
        """Let the workers finish the calls under way, for at most ``grace`` seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(slot.end(grace) for slot in self._slots))

    def kill(self) -> None:
        """Kill all workers at once; `stop` still has to be awaited."""
        for slot in self._slots:
            slot.kill()

    def publish(self, table: RouteTable) -> None:
        """Send a table to every worker; one that starts later gets it first thing."""
        self.table = table
        for slot in self._slots:
            if slot.link is not None:
                slot.link.send_table(table)

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

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def changed(self) -> None:
        """Wake everybody who waits for a worker."""
        self._changed.set()
        self._changed = asyncio.Event()

    def report(self) -> dict[str, Any]:
        """Return the sum of what all workers, past and present, have counted."""
        total = self.base
        for link in self.links:
            total = add(total, link.report)
        return total

    def settle(self, report: dict[str, Any]) -> None:
        """Keep the last report of a worker that is dead."""
        self.base = add(self.base, settled(report))

    def forget(self, instance: str) -> None:
        """Drop what dead workers had counted for an instance that was deleted."""
        self.base = without(self.base, instance)


class Slot:
    """The place of one worker: holds its process, and a next one after it died.

    Args:
        path: Of its control socket.
        log: Where its output goes.
        workers: Whom it belongs to.
    """

    def __init__(self, path: Path, log: LogFile, workers: Workers) -> None:
        self.path = path
        self.link: Link | None = None
        self._log = log
        self._workers = workers
        self._process: GroupProcess | None = None

    def __repr__(self) -> str:
        return f"<Slot {self.path.name}: {self._process}, {self.link}>"

    async def run(self) -> None:
        """Keep a worker running until cancelled; the process stays for `end`."""
        crashes = Crashes(_BACKOFF)
        while True:
            born = time.monotonic()
            how = await self._live()
            crashes.happened(time.monotonic() - born)
            pause = crashes.delay(random.random())  # noqa: S311 - jitter
            log.error("Multiplexer worker %s; the next one starts in %.1f s", how, pause)
            await asyncio.sleep(pause)

    async def _live(self) -> str:
        """Return in words how one worker ended, once it has."""
        self.path.unlink(missing_ok=True)
        self._log.keep_within()
        arguments = ["--control", str(self.path), "--config", self._workers.config]
        try:
            self._process = GroupProcess.start(
                [*self._workers.arguments, *arguments],
                dict(os.environ),
                self._log,
                (self._workers.listener.fileno(),),
            )
        except LaunchFailed as error:
            return f"cannot be started ({error})"
        feed = asyncio.create_task(self._feed())
        try:
            how = await self._process.wait()
        finally:
            feed.cancel()
            await asyncio.gather(feed, return_exceptions=True)
        await self._process.end(0)
        self._process = None
        self._settle()
        return how

    async def _feed(self) -> None:
        """Give the worker its table, and listen to it; a worker without ears is ended."""
        try:
            link = await Link.connect(self.path, READY_LIMIT)
            self.link = link
            if self._workers.table.version:
                link.send_table(self._workers.table)
            await link.listen(self._workers.changed)
            await asyncio.sleep(ACK_LIMIT)  # it closes its socket when it ends, too
            log.error("Worker %d closed its control socket", link.pid)
        except TimeoutError:
            log.error("Worker has no control socket after %.0f s", READY_LIMIT)
        if self._process is not None:
            self._process.kill()

    def _settle(self) -> None:
        if self.link is not None:
            self._workers.settle(self.link.report)
        self.link = None
        self._workers.changed()

    async def end(self, grace: float) -> None:
        """End the worker, if there is one; it gets ``grace`` seconds for calls under way."""
        if self._process is not None:
            await self._process.end(grace)
            self._process = None
        self._settle()
        self.path.unlink(missing_ok=True)

    def kill(self) -> None:
        """Kill the worker at once."""
        if self._process is not None:
            self._process.kill()

    def last_words(self) -> str:
        """Return the last lines of its log."""
        return " / ".join(self._log.tail(3))


async def drain_leftovers(run_dir: Path, limit: float = READY_LIMIT) -> None:
    """Ask workers of a manager that was killed to exit, so that the port is free again.

    Args:
        run_dir: Where their control sockets are.
        limit: Seconds that each of them gets.
    """
    for path in _sockets(run_dir):
        with contextlib.suppress(TimeoutError, OSError):
            link = await Link.connect(path, _BACKOFF.first)
            log.warning("Worker %s of an earlier manager is asked to exit", path.name)
            link.send_drain()
            async with asyncio.timeout(limit):
                await link.listen(lambda: None)


def _sockets(run_dir: Path) -> list[Path]:
    return list(run_dir.glob("worker-*.sock"))
