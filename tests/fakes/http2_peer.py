"""An HTTP/2 peer that does what a test says, on hyper-h2: a client or an instance with vices."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import h2.config
import h2.connection
import h2.events

Event = TypeVar("Event", bound=h2.events.Event)

ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


class Peer:
    """One connection, either side. ``h2`` is the library's state machine, free for the test."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: bool
    ) -> None:
        config = h2.config.H2Configuration(
            client_side=client,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.reader, self.writer = reader, writer
        self.events: list[h2.events.Event] = []
        self.seen: list[h2.events.Event] = []
        self.acknowledge = True

    async def start(self) -> None:
        """Say hello."""
        self.h2.initiate_connection()
        await self.flush()

    async def flush(self) -> None:
        """Write what the library wants written."""
        self.writer.write(self.h2.data_to_send())
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def next(
        self, kind: type[Event], stream_id: int | None = None, limit: float = 5
    ) -> Event:
        """Wait for an event of a kind (of a stream); what else comes is kept in ``seen``."""
        async with asyncio.timeout(limit):
            while True:
                for position, event in enumerate(self.events):
                    if isinstance(event, kind) and stream_id in (
                        None,
                        getattr(event, "stream_id", None),
                    ):
                        del self.events[position]
                        return event
                await self._read()

    async def _read(self) -> None:
        data = await self.reader.read(65536)
        if not data:
            raise ConnectionResetError("the peer closed the connection")
        events = self.h2.receive_data(data)
        self.seen += events
        self.events += events
        for event in events:
            if isinstance(event, h2.events.DataReceived) and self.acknowledge:
                with contextlib.suppress(Exception):  # the stream may be over by now
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        await self.flush()

    async def closed(self, limit: float = 5) -> None:
        """Wait until the other side has closed the connection."""
        async with asyncio.timeout(limit):
            with contextlib.suppress(ConnectionError):
                while True:
                    await self._read()

    def request(
        self, path: str, *headers: tuple[str, str], data: bytes | None = None, end: bool = False
    ) -> int:
        """Start a call and, if there is data, send it; returns the stream's id."""
        stream_id = self.h2.get_next_available_stream_id()
        block = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "test"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            *headers,
        ]
        self.h2.send_headers(stream_id, block, end_stream=end and data is None)
        if data is not None:
            self.h2.send_data(stream_id, data, end_stream=end)
        return stream_id

    async def status(self, stream_id: int, limit: float = 5) -> tuple[int, str]:
        """Wait for the end of a call and return its status and message as they stand."""
        async with asyncio.timeout(limit):
            while True:
                for event in self.seen:
                    if getattr(event, "stream_id", None) != stream_id:
                        continue
                    fields = dict(getattr(event, "headers", None) or ())
                    if "grpc-status" in fields:
                        return int(fields["grpc-status"]), fields.get("grpc-message", "")
                await self._read()

    def answer(self, stream_id: int, *messages: bytes) -> None:
        """Answer a call with messages and OK."""
        self.h2.send_headers(stream_id, ANSWER)
        for message in messages:
            self.h2.send_data(stream_id, message)
        self.h2.send_headers(stream_id, OK, end_stream=True)

    def cut(self) -> None:
        """Close with RST, as a killed process' kernel does when data is left unread."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


def fields(event: Any) -> list[tuple[str, str]]:
    """The header list of an event, as text."""
    return [(name, value) for name, value in event.headers]


@asynccontextmanager
async def connect(port: int, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """A client's connection, after its hello."""
    name = "localhost" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    peer = Peer(reader, writer, client=True)
    await peer.start()
    try:
        yield peer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


class Scripted:
    """An instance that follows a script on each connection; ``connections`` counts them."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.peers: list[Peer] = []


@asynccontextmanager
async def scripted(
    script: Callable[[Peer, int], Awaitable[None]],
) -> AsyncIterator[Scripted]:
    """Listen; run ``script(peer, number of the connection)`` for each, and end all at the end.

    A script that raises fails the test, save that the connection was closed under it.
    """
    backend = Scripted()
    tasks: list[asyncio.Task[None]] = []
    errors: list[BaseException] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, client=False)
        backend.connections += 1
        backend.peers.append(peer)
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        try:
            await script(peer, backend.connections)
        except (ConnectionError, asyncio.CancelledError):
            pass
        except Exception as error:
            errors.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    backend.port = server.sockets[0].getsockname()[1]
    try:
        yield backend
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if errors:
        raise errors[0]


async def answer_all(peer: Peer, message: bytes = b"\0\0\0\0\2hi") -> None:
    """A script's usual end: answer every call at its half-close until the peer goes."""
    while True:
        event = await peer.next(h2.events.StreamEnded, limit=60)
        peer.answer(event.stream_id, message)
        await peer.flush()
