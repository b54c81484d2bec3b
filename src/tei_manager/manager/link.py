"""The manager's end of one worker's control socket: one JSON document a line, both ways.

To the worker: ``{"type": "table", …}`` with the fields of `RouteTable.to_json`, always the whole
table, and ``{"type": "drain"}``. From it: ``hello`` once, ``applied`` with the version of each
table that is in force, ``counters`` once a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tei_manager.routes import RouteTable

log = logging.getLogger(__name__)

# A report of 1,000 instances with all 17 methods each is under 1 MiB.
_LINE_LIMIT = 16 * 1024 * 1024

# Between two attempts to reach a socket that is not there yet. A worker needs about 200 ms.
_RETRY_PAUSE = 0.02


class Link:
    """A connection to a worker, open until either end closes it.

    Attributes:
        applied: Version of the table that the worker has in force; -1 before its hello.
        report: Its latest counters.

    Ownership:
        Made by `connect`; `listen` reads until the end and closes it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.pid = 0
        self.applied = -1
        self.report: dict[str, Any] = {}

    def __repr__(self) -> str:
        return f"<Link to worker {self.pid}: table v{self.applied}>"

    @classmethod
    async def connect(cls, path: Path, limit: float) -> Link:
        """Connect to the socket as soon as it is there.

        Raises:
            TimeoutError: It is not there within ``limit`` seconds.
        """
        async with asyncio.timeout(limit):
            while True:
                try:
                    return cls(*await asyncio.open_unix_connection(path, limit=_LINE_LIMIT))
                except (FileNotFoundError, ConnectionRefusedError):
                    await asyncio.sleep(_RETRY_PAUSE)

    def send_table(self, table: RouteTable) -> None:
        """Send the whole table; a worker that is gone is noticed by `listen`."""
        self._writer.write(b'{"type":"table",' + table.to_json().encode()[1:] + b"\n")

    def send_drain(self) -> None:
        """Ask the worker to finish the calls under way and to exit."""
        self._writer.write(b'{"type":"drain"}\n')

    async def listen(self, changed: Callable[[], None]) -> None:
        """Read until the worker closes the connection, and close this end.

        Args:
            changed: Called after each line that was understood.
        """
        try:
            async for line in self._reader:
                self._take(line)
                changed()
        except (OSError, ValueError) as error:
            log.warning("Control connection to worker %d lost: %s", self.pid, error)
        finally:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        match message.get("type"):
            case "hello":
                self.pid, self.applied = int(message["pid"]), 0
            case "applied":
                self.applied = int(message["version"])
            case "counters":
                self.report = dict(message["counters"])
            case other:
                log.warning("Worker %d sent a message of unknown type %r", self.pid, other)
