"""A transport around a connection, either side: feed, flush, and nothing decided.

All connections of a process read into one buffer: the loop fills it, calls `buffer_updated`, and
what it holds is parsed or copied before the next read. So an idle connection holds no buffer. And
64 KiB is the most that one peer can make us parse in a turn of the loop: after a read that fills
the buffer reading pauses until the next one. (libuv reads up to 32 times otherwise. It may while
one client is connected: then there is nobody who would wait.)
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic
from typing import TYPE_CHECKING, Any, cast

from tei_manager.wire.connection import Connection
from tei_manager.wire.frames import ErrorCode, ProtocolError
from tei_manager.wire.handler import GONE
from tei_manager.wire.headers import HeadReader
from tei_manager.wire.stream import Stream

if TYPE_CHECKING:
    from tei_manager.mux.switch import Switch

logger = logging.getLogger(__name__)

READ_BUFFER = 64 << 10
_BUFFER = bytearray(READ_BUFFER)
_VIEW = memoryview(_BUFFER)

HIGH_WATER = 32 << 10
"""Octets that may wait in a transport before DATA stays in its stream's queue: two frames. 64 KiB
gave no more for answers of 10 MB, and half as much memory again beside clients that do not read."""

CLOSE_SECONDS = 5.0
"""How long a closing transport may take to deliver its last octets before it is cut."""


class Traffic:
    """Octets that one kind of connections has received and sent."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = 0
        self.sent = 0


class Endpoint(asyncio.BufferedProtocol):
    """One connection and its transport. Subclasses say what a client or an instance means.

    Args:
        switch: What all connections of the worker share.
        client: Whether we open the connection.
        heads: Reads header blocks for this side.
        max_streams: Calls that the peer may have under way.
    """

    def __init__(
        self, switch: Switch, *, client: bool, heads: HeadReader, max_streams: int = 0
    ) -> None:
        self.switch = switch
        self.connection = Connection(
            self,
            client=client,
            dirty=switch.dirty,
            pool=switch.pool,
            heads=heads,
            max_streams=max_streams,
            now=monotonic(),
        )
        self.transport: asyncio.Transport | None = None
        self.traffic = switch.backend_traffic if client else switch.client_traffic
        self._reading = True
        self._close_by = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the connection."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(HIGH_WATER)
        self.switch.endpoints.add(self)
        self.connection.start()
        self.switch.flush()

    def get_buffer(self, sizehint: int) -> bytearray:
        """Return the buffer that all connections share."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """Act on what was read, and before that on what an earlier turn left over."""
        self.traffic.received += nbytes
        connection, switch = self.connection, self.switch
        switch.now = now = monotonic()
        try:
            connection.receive(_VIEW[:nbytes], now)
        except Exception:
            logger.exception("a bug in the switch ended a connection: %r", connection)
            connection.fail(ErrorCode.INTERNAL_ERROR, "internal error")
        switch.flush_soon()
        if connection.backlog or (nbytes == READ_BUFFER and switch.counters.client_connections > 1):
            self._pause()
            switch.loop.call_soon(self._go_on)

    def eof_received(self) -> bool:
        """Treat a half-closed connection as a closed one: HTTP/2 has no use for it."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End every stream of the connection."""
        self.switch.endpoints.discard(self)
        self.connection.closing = True
        if self.connection.error is not None:
            side = "instance" if self.connection.client else "client"
            self.switch.counters.broke(side, _reason(self.connection.error))
        self.lost(_cause(exc, self.connection))
        self.transport = None
        self.connection.handler = GONE
        self.connection.out.clear()
        self.switch.flush()

    def pause_writing(self) -> None:
        """Keep DATA in its streams' queues from now on."""
        self.connection.set_writable(False)

    def resume_writing(self) -> None:
        """Let DATA flow again."""
        self.connection.set_writable(True)
        self.flush()
        self.switch.flush_soon()

    def flush(self) -> None:
        """Write what the connection wants written, unless the transport is full."""
        transport, connection = self.transport, self.connection
        if transport is None or self._close_by:  # our last word is said
            connection.out.clear()
        elif connection.writable or connection.closing:
            out = connection.out
            if out:
                data = b"".join(out)
                out.clear()
                self.traffic.sent += len(data)
                transport.write(data)
            if connection.closing:  # once what has arrived is read, or the peer gets a reset
                self.switch.loop.call_soon(self.close)  # in place of our last words
        if not (self._reading and connection.writable):
            self._regulate()

    def close(self) -> None:
        """Close the transport once it has delivered what it holds; it gets `CLOSE_SECONDS`.

        In peace our side is closed alone, and what the peer still sends is read until it closes
        its own: a socket that is closed with something unread, or gets something later, sends a
        reset, and that takes answers with it which the peer has not got yet.
        """
        transport = self.transport
        if transport is None or self._close_by:
            return
        self._close_by = monotonic() + CLOSE_SECONDS
        if self.connection.error is None and transport.can_write_eof():
            transport.write_eof()
        else:
            transport.close()

    def check(self, now: float) -> None:
        """Look after deadlines of the connection; called a few times a second."""
        if self._close_by:
            if now > self._close_by and self.transport is not None:
                self.transport.abort()
        else:
            self.connection.expire(now)
            if self.connection.closing:
                self.flush()  # a peer that does not read would never call us to do it

    def lost(self, cause: str) -> None:
        """End what the connection carried; ``cause`` is a clause for a status message."""
        raise NotImplementedError

    def on_request(self, stream: Stream, head: Any, end: bool) -> None:
        """Refuse a call from a peer that may not start one."""
        self.connection.reset(stream, ErrorCode.REFUSED_STREAM)

    def on_settings(self) -> None:
        """Nothing hangs on a client's settings."""

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """A client that says goodbye still gets its answers."""

    def on_ping_ack(self, payload: bytes) -> None:
        """We ask clients nothing."""

    def on_whole_answer(self, stream: Stream, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """Clients answer nothing."""
        return False

    def _go_on(self) -> None:
        """Parse what one turn left over, before anything more is read; then read on."""
        if self.transport is None or self.transport.is_closing():
            return
        self.buffer_updated(0)
        self._regulate()

    def _regulate(self) -> None:
        """Stop reading from a peer that makes us answer and does not read; go on when it does."""
        if self.connection.congested:
            self._pause()
        elif not self._reading and not self.connection.backlog and self.transport is not None:
            self._reading = True
            if not self.transport.is_closing():
                self.transport.resume_reading()

    def _pause(self) -> None:
        if self._reading and self.transport is not None and not self.transport.is_closing():
            self._reading = False
            self.transport.pause_reading()


def _reason(error: ProtocolError) -> str:
    """Return a label for what ended a connection: which limit, or which kind of error."""
    if error.code is ErrorCode.ENHANCE_YOUR_CALM:
        return error.message.replace(" ", "_")
    return error.code.name.lower()


def _cause(exc: Exception | None, connection: Connection) -> str:
    if connection.error is not None:
        return f"{connection.error.message} ({connection.error.code.name})"
    if isinstance(exc, ConnectionResetError):
        return "reset by peer"
    return str(exc) if exc is not None else "closed by peer"
