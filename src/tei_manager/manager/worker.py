"""One multiplexer worker as the manager sees it: a process, and the link to it.

    started ─hello, table─▶ serves ─draining─▶ lost, finishes its calls ─▶ ended
    found ─────────────────▶ └─silent, or without a link─▶ lost, killed ─────┘

*Lost* is when it takes no more clients, so that another one has to. What it counts is listened to
until it has ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from tei_manager.control import REPORT_SECONDS
from tei_manager.manager.link import SILENT_TICKS, Link, peer_pid, reach
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.process import GroupProcess
from tei_manager.routes import RouteTable

logger = logging.getLogger(__name__)

# Importing takes a fifth of a second, and ten seconds beside fifteen other programs on two cores.
READY_LIMIT = 30.0

# How long anybody waits for an acknowledgement: a worker answers within one turn of its loop.
ACK_LIMIT = 2.0

# A worker that was found listens already, or does within a moment.
_KNOCK_LIMIT = 0.1

# What a process wrote is there when it has ended; this is for a loop that is busy.
_LAST_REPORT_LIMIT = 1.0


class Reason(StrEnum):
    """Why a worker was replaced; a label of the metrics."""

    ENDED = "ended"
    DRAINED = "drained"
    SILENT = "silent"
    DISCONNECTED = "disconnected"
    OUTDATED = "outdated"


class WorkerProcess:
    """A worker.

    Args:
        path: Of its control socket.
        process: A session of its own.
        log: Where its output goes.
        link: To one that was found; `run` makes that of one that was started.

    Ownership:
        Made by `start` or `find`; `end` ends the process, `release` lets it run on. `run` needs a
        task of its own until then.
    """

    def __init__(
        self, path: Path, process: GroupProcess, log: LogFile, link: Link | None = None
    ) -> None:
        self.path, self.process, self.link = path, process, link
        self._log = log
        self._lost: asyncio.Future[tuple[Reason, str]] = asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"<WorkerProcess {self.path.name}: {self.process}, {self.link}>"

    @classmethod
    def start(
        cls, path: Path, log: LogFile, command: Sequence[str], listeners: Sequence[int]
    ) -> WorkerProcess:
        """Start one, which inherits the descriptors of the listening sockets.

        Raises:
            LaunchFailed: There is no such program, or its log cannot be opened.
        """
        _remove(path)
        log.keep_within()
        flags = ["--control", str(path)]
        for listener in listeners:
            flags += ["--listen-fd", str(listener)]
        process = GroupProcess.start([*command, *flags], dict(os.environ), log, tuple(listeners))
        return cls(path, process, log)

    @classmethod
    async def find(cls, path: Path, log: LogFile) -> WorkerProcess | None:
        """Return the worker of an earlier manager that listens at a path.

        Whose socket it is says the kernel. One that nobody listens at is removed, and a worker
        that has no hello for us is killed, as it holds the port.
        """
        try:
            connection = await reach(path, _KNOCK_LIMIT)
        except OSError:
            _remove(path)
            return None
        process = GroupProcess.find(peer_pid(connection))
        if process is None:  # it has ended since, or lives in another container
            connection.close()
            return None
        try:
            link = await Link.open(connection, SILENT_TICKS * REPORT_SECONDS)
        except ConnectionError:  # it has just begun to drain
            process.release()
        except (TimeoutError, ValueError) as error:
            logger.error("Worker %d says no hello (%r): killing it", process.pid, error)
            await process.end(0)
            _remove(path)
        else:
            return cls(path, process, log, link)
        return None

    async def run(self, table: Callable[[], RouteTable], changed: Callable[[], None]) -> None:
        """Give the worker its first table and listen to it; return when it has ended.

        Args:
            table: Returns the present one; version 0 stands for none.
            changed: Called after each word of the worker.
        """
        feed = asyncio.create_task(self._feed(table, changed), name=f"feed {self.process.pid}")
        end = asyncio.create_task(self.process.wait(), name=f"end {self.process.pid}")
        try:
            await asyncio.wait({feed, end}, return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                await self._give_up(*feed.result(), end)
            how = await end
            await asyncio.wait({feed}, timeout=_LAST_REPORT_LIMIT)
        finally:
            feed.cancel()
            end.cancel()
            await asyncio.gather(feed, end, return_exceptions=True)
        self._lose(Reason.ENDED, how)
        _remove(self.path)

    async def _feed(
        self, table: Callable[[], RouteTable], changed: Callable[[], None]
    ) -> tuple[Reason, str]:
        """Return why the link has ended."""

        def heard() -> None:
            if self.link is not None and self.link.draining:
                self._lose(Reason.DRAINED, "takes no more clients, as it was told")
            changed()

        try:
            if self.link is None:
                self.link = await Link.open(await reach(self.path, READY_LIMIT), READY_LIMIT)
                self.link.drop_listener()
            self.send(table())
            await self.link.listen(heard)
        except TimeoutError:
            return Reason.SILENT, "says nothing"
        except (OSError, ValueError) as error:
            return Reason.DISCONNECTED, f"cannot be reached ({error!r})"
        return Reason.DISCONNECTED, "closed its control socket"

    async def _give_up(self, reason: Reason, how: str, end: asyncio.Task[str]) -> None:
        if reason is Reason.DISCONNECTED:  # that is what one does that ends, too
            await asyncio.wait({end}, timeout=ACK_LIMIT)
        if not end.done():
            self._lose(reason, f"{how}; it was killed")
            self.process.kill()

    def _lose(self, reason: Reason, how: str) -> None:
        if not self._lost.done():
            self._lost.set_result((reason, f"{self.process.pid} {how}"))

    async def lost(self) -> tuple[Reason, str]:
        """Return why the worker takes no more clients, once it does not, and that in words."""
        return await asyncio.shield(self._lost)

    @property
    def takes_clients(self) -> bool:
        """Whether it is there, understands us, and is not lost."""
        return self.link is not None and self.link.understood and not self._lost.done()

    def send(self, table: RouteTable) -> None:
        """Send a table, if there is one and the worker can read it."""
        if table.version and self.link is not None and self.link.understood:
            self.link.send_table(table)

    async def end(self, grace: float) -> None:
        """End the process; it gets ``grace`` seconds for calls under way."""
        await self.process.end(grace)

    async def release(self) -> None:
        """Let the process run on without us, as a next manager will find it."""
        self.process.release()
        if self.link is not None:
            await self.link.close()

    def last_words(self) -> str:
        """Return the last lines of its log."""
        return " / ".join(self._log.tail(3))


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
