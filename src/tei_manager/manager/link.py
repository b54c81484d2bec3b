"""The manager's end of one worker's control socket; what is said there stands in `control`.

A worker that says nothing is told from one that is busy by counting, not by the clock: it reports
once a second, and `SILENT_TICKS` seconds in a row without a word are too many. A second in which
this process itself did not run (a stopped manager, a laptop asleep) counts once, whatever its
length, and what the worker has said meanwhile is heard before the next one is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tei_manager.control import PROTOCOL, REPORT_SECONDS, Hello
from tei_manager.routes import RouteTable
from tei_manager.unix_socket import path_of

log = logging.getLogger(__name__)

# A report of 1,000 instances with all 17 methods each is under 1 MiB.
_LINE_LIMIT = 16 * 1024 * 1024

# Between two attempts to reach a socket that is not there yet. A worker needs about 200 ms.
_RETRY_PAUSE = 0.02

SILENT_TICKS = 5
"""Reports in a row that a worker may miss. A turn of its loop takes milliseconds, also under load,
so five seconds mean that it is stopped or hangs; fewer would punish it for a machine that swaps."""

# LOCAL_PEERPID of macOS' <sys/un.h>, at the level SOL_LOCAL; Python has no name for them.
_SOL_LOCAL, _LOCAL_PEERPID = 0, 2


async def reach(path: Path, limit: float) -> socket.socket:
    """Connect to a worker's socket, as soon as it is there.

    Raises:
        OSError: It cannot be reached within ``limit`` seconds (`TimeoutError`), or at all.

    Ownership:
        The socket is the caller's to close.
    """
    async with asyncio.timeout(limit):
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                return await _connect(path)
            await asyncio.sleep(_RETRY_PAUSE)


async def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


def peer_pid(connection: socket.socket) -> int:
    """Return the number of the process that listens at the other end, as the kernel says it."""
    if sys.platform == "linux":
        size = struct.calcsize("3i")
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return int(struct.unpack("3i", credentials)[0])
    return connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID)


class Link:
    """A connection to a worker that has said hello, open until either end closes it.

    Attributes:
        hello: Who the worker says it is.
        address: What it listens on for clients: host and port, port 0 if that is not known.
        unix_path: Where its Unix socket for clients is, if it has one.
        applied: Version of the table that the worker has in force, of those sent here; 0 before.
        report: Its latest counters.
        under_way: Calls that processes still have which get no more, by key of their route.
        draining: Whether it takes no more clients.

    Ownership:
        Made by `open`; `listen` reads until the end and closes it, `close` cuts it short.
    """

    def __init__(
        self,
        hello: Hello,
        listeners: Sequence[socket.socket],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.hello = hello
        self._unix = next((it for it in listeners if it.family == socket.AF_UNIX), None)
        self._listener = next((it for it in listeners if it.family != socket.AF_UNIX), None)
        self.address: tuple[str, int] = ("", 0)
        if self._listener is not None:
            self.address = self._listener.getsockname()[:2]
        self.unix_path = path_of(self._unix) if self._unix else None
        self._reader, self._writer = reader, writer
        self.applied = 0
        self.report: dict[str, Any] = {}
        self.under_way: dict[str, int] = {}
        self.draining = False
        self._heard = 0

    def __repr__(self) -> str:
        return f"<Link to worker {self.pid}: table v{self.applied}>"

    @property
    def pid(self) -> int:
        """The worker's process."""
        return self.hello.pid

    @property
    def understood(self) -> bool:
        """Whether the worker speaks our protocol; otherwise it can only be asked to end."""
        return self.hello.protocol == PROTOCOL

    @classmethod
    async def open(cls, connection: socket.socket, limit: float) -> Link:
        """Wait for the hello of the worker at the other end.

        Raises:
            TimeoutError: It has not come within ``limit`` seconds.
            ConnectionError: The worker has closed the connection.
            ValueError: What came is no hello.

        Ownership:
            Takes the connection over, also if it raises.
        """
        try:
            async with asyncio.timeout(limit):
                await _readable(connection)
            text, descriptors, _, _ = socket.recv_fds(connection, 1 << 16, 2)
            listeners = [socket.socket(fileno=number) for number in descriptors]
            with contextlib.ExitStack() as undo:
                for listener in listeners:
                    undo.callback(listener.close)
                link = await cls._greeted(connection, text, listeners)
                undo.pop_all()
            return link
        except BaseException:
            connection.close()
            raise

    @classmethod
    async def _greeted(
        cls, connection: socket.socket, text: bytes, listeners: Sequence[socket.socket]
    ) -> Link:
        if not text:
            raise ConnectionError("the worker has closed its control socket")
        first, _, rest = text.partition(b"\n")
        hello = Hello.from_line(first)
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_LINE_LIMIT, loop)
        reader.feed_data(rest)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=connection)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return cls(hello, listeners, reader, writer)

    def send_table(self, table: RouteTable) -> None:
        """Send the whole table; a worker that is gone is noticed by `listen`."""
        self._writer.write(b'{"type":"table",' + table.to_json().encode()[1:] + b"\n")

    def keep_listener(self) -> socket.socket | None:
        """Return the worker's listening socket, the caller's to close; there is one copy of it."""
        listener, self._listener = self._listener, None
        return listener

    def keep_unix(self) -> socket.socket | None:
        """Return the worker's Unix socket for clients, the caller's to close, like the other."""
        unix, self._unix = self._unix, None
        return unix

    def drop_listener(self) -> None:
        """Close this end's copies of the worker's listening sockets, if they are still here."""
        for listener in (self.keep_listener(), self.keep_unix()):
            if listener is not None:
                listener.close()

    async def listen(self, changed: Callable[[], None]) -> None:
        """Read until the worker closes the connection, and close this end.

        Args:
            changed: Called after each line that was understood.

        Raises:
            TimeoutError: The worker was silent for `SILENT_TICKS` reports.
        """
        reading = asyncio.create_task(self._read(changed), name=f"link {self.pid}")
        try:
            await self._until_silent(reading)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await self.close()

    async def _until_silent(self, reading: asyncio.Task[None]) -> None:
        missed = 0
        while missed < SILENT_TICKS:
            heard = self._heard
            await asyncio.wait({reading}, timeout=REPORT_SECONDS)
            if reading.done():
                return
            missed = missed + 1 if self._heard == heard else 0
        raise TimeoutError(f"nothing heard for {SILENT_TICKS * REPORT_SECONDS:.0f} s")

    async def close(self) -> None:
        """Close this end; the worker goes on."""
        self.drop_listener()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _read(self, changed: Callable[[], None]) -> None:
        try:
            async for line in self._reader:
                self._heard += 1
                self._take(line)
                changed()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("Control connection to worker %d lost: %r", self.pid, error)

    def _take(self, line: bytes) -> None:
        message = json.loads(line)
        match message.get("type"):
            case "applied":
                self.applied = int(message["version"])
            case "under_way":
                self.under_way = dict(message["calls"])
            case "counters":
                self.report = dict(message["counters"])
            case "draining":
                self.draining = True
            case other:
                log.warning("Worker %d sent a message of unknown type %r", self.pid, other)


async def _readable(connection: socket.socket) -> None:
    """Wait until there is something to read, which asyncio does not offer for ancillary data."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)
