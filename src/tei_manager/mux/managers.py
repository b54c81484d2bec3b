"""A worker's end of its control socket: takes tables, reports; the words are in `control`.

Managers come and go while calls go on. A worker that nobody has been connected to for
`ORPHAN_SECONDS` drains. One that ends says its last counters to whoever is still there, waits for
`GOODBYE_SECONDS` at most until they are read, and leaves no task behind.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tei_manager import __version__, control
from tei_manager.routes import RouteTable

if TYPE_CHECKING:
    from tei_manager.mux.worker import Worker

logger = logging.getLogger(__name__)

ORPHAN_SECONDS = 600.0
"""After so long without a manager a worker drains (design.md 3)."""

GOODBYE_SECONDS = 1.0
"""How long the last report may take to be written; a manager reads it at once."""

MAX_LINE = 16 << 20
"""Octets of one control line: a table of 10,000 routes has two million."""


class Managers:
    """Whoever is connected to a worker's control socket; one manager, save for moments.

    Args:
        worker: What they steer.

    Ownership:
        `listen` makes the socket, `hide` removes it; `say_goodbye` ends every connection.
    """

    def __init__(self, worker: Worker) -> None:
        self.orphan_timer: asyncio.TimerHandle | None = None
        self._worker = worker
        self._serving: dict[asyncio.StreamWriter, asyncio.Task[None]] = {}
        self._control: tuple[Path, asyncio.Server] | None = None
        self._hidden = False

    def __repr__(self) -> str:
        return f"<Managers: {len(self._serving)} connected>"

    async def listen(
        self, path: Path, listening: Sequence[socket.socket], options: dict[str, Any]
    ) -> None:
        """Listen on a Unix socket; see `Worker.listen_for_managers`."""
        hello = control.Hello(os.getpid(), __version__, options).to_line()

        def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if self._hidden or not _greet(writer, hello, listening):
                writer.close()
                return
            serving = asyncio.create_task(self._serve(reader, writer), name="manager")
            self._serving[writer] = serving
            if self.orphan_timer is not None:
                self.orphan_timer.cancel()

        self._control = path, await asyncio.start_unix_server(take, path, limit=MAX_LINE)
        self._await_next()

    def hide(self) -> None:
        """Let no further manager come, and tell those that are there."""
        self._hidden = True
        if self._control is not None:
            path, server = self._control
            path.unlink(missing_ok=True)
            server.close()
            self._control = None
        for writer in self._serving:
            writer.write(control.line("draining"))

    async def say_goodbye(self) -> None:
        """Send what was counted until the end, and end every connection."""
        for writer in self._serving:
            self._report(writer)
            writer.close()
        serving = set(self._serving.values())
        if serving:
            await asyncio.wait(serving, timeout=GOODBYE_SECONDS)
        for writer in self._serving:  # of those who do not read
            writer.transport.abort()
        await asyncio.gather(*serving)

    def tell_under_way(self) -> None:
        """Say which processes still have calls though they get no more."""
        calls = self._worker.switch.backends.under_way()
        for writer in self._serving:
            writer.write(control.line("under_way", calls=calls))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reports = asyncio.create_task(self._keep_reporting(writer))
        try:
            while line := await reader.readline():
                self._obey(line, writer)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("lost the manager: %r", error)
        finally:
            reports.cancel()
            writer.close()
            del self._serving[writer]
            self._await_next()

    def _obey(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        order = json.loads(line)
        if order.get("type") == "table":
            table = RouteTable.from_json(line)
            self._worker.apply(table)
            self.tell_under_way()
            writer.write(control.line("applied", version=table.version))
        else:
            logger.warning("the manager said what this worker does not know: %r", order)

    async def _keep_reporting(self, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):  # which the reader sees, too
            while True:
                self._report(writer)
                await writer.drain()
                await asyncio.sleep(control.REPORT_SECONDS)

    def _report(self, writer: asyncio.StreamWriter) -> None:
        writer.write(control.line("counters", counters=self._worker.counters.to_json()))

    def _await_next(self) -> None:
        if not self._serving and not self._hidden:
            loop = asyncio.get_running_loop()
            self.orphan_timer = loop.call_later(ORPHAN_SECONDS, self._worker.drain)


def _greet(writer: asyncio.StreamWriter, hello: bytes, listening: Sequence[socket.socket]) -> bool:
    """Write the hello with descriptors beside it, which asyncio cannot; say whether it went out.

    Nothing was written before, so that it fits into the socket's buffer and nothing can overtake.
    """
    try:
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as connection:
            numbers = [each.fileno() for each in listening]
            return socket.send_fds(connection, [hello], numbers) == len(hello)
    except OSError as error:
        logger.warning("a manager did not wait for the hello: %s", error)
        return False
