"""One connection to an instance, and the two-step end of the calls that are reset on it.

A reset frees nothing by itself: the instance may be working on the call. A PING is sent behind it,
and when that is answered the instance has seen the reset, so the call is *gone*. One PING serves
all resets before it. And no more than a few resets of calls that the instance has not answered yet
are under way at a time; further ones wait here, with their callers long answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING

from tei_manager.grpc.status import Code
from tei_manager.mux.endpoint import Endpoint
from tei_manager.mux.exchange import Exchange
from tei_manager.wire import frames
from tei_manager.wire.answers import client_heads
from tei_manager.wire.frames import ErrorCode
from tei_manager.wire.handler import GONE
from tei_manager.wire.stream import Stream

if TYPE_CHECKING:
    from tei_manager.mux.backends import Backend
    from tei_manager.mux.switch import Switch

LARGEST_ID = int((1 << 31) * 0.75)
"""Stream id after which a connection is replaced in good time (grpc-go's number)."""

IDLE_SECONDS = 600.0
"""After so long without a call a connection is closed."""

MAX_YOUNG_RESETS = 10
"""Resets of calls that an instance has not answered which may be under way on one connection.
TEI's HTTP/2 library closes the connection, with everybody's calls, at twenty."""

_KEEPALIVE_PING = b"alive?!?"
_RESET_PING = b"reset-ok"


class Upstream(Endpoint):
    """One connection to an instance.

    ``live`` counts calls that are not gone; a call that was reset is gone when the PING behind the
    reset has been answered. ``crowded`` says that calls which the instance is slow to take hold
    more than half of the connection's window, so that a long one would wait for them here.
    """

    def __init__(self, switch: Switch, backend: Backend) -> None:
        super().__init__(switch, client=True, heads=client_heads())
        self.backend = backend
        self.live = 0
        self.idle_since = switch.now
        self.crowded = False
        self._was_low = False
        self._went = False
        self._resetting: list[Exchange] = []  # reset, and no PING sent since
        self._pinged: list[Exchange] = []  # reset before the PING that is under way
        self._deferred: deque[tuple[Exchange, Stream]] = deque()
        self._keepalive_by = inf
        self._settled: asyncio.Future[None] = switch.loop.create_future()

    @property
    def has_room(self) -> bool:
        """Whether one more call may be started here."""
        connection = self.connection
        return (
            self.live < connection.peer_max_streams
            and connection.settled
            and not connection.going
            and connection.next_id < LARGEST_ID
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection, and start it."""
        self.switch.counters.opened(self.backend.route.name)
        super().connection_made(transport)

    async def first_settings(self) -> None:
        """Wait until the instance has shown that it speaks HTTP/2.

        Raises:
            ConnectionError: It closed the connection, or speaks something else.
        """
        await self._settled

    def detach(self) -> None:
        """Note that a call is gone, and let a waiting one have its stream."""
        self.live -= 1
        if not self.live:
            self.idle_since = self.switch.now
        self.backend.gone()

    def cancel(self, exchange: Exchange, stream: Stream) -> None:
        """Reset the stream of a call, now or when fewer young resets are under way."""
        if exchange.young and len(self._resetting) + len(self._pinged) >= MAX_YOUNG_RESETS:
            self._deferred.append((exchange, stream))
        else:
            self._reset(exchange, stream)

    def on_settings(self) -> None:
        """Take calls from now on."""
        if not self._settled.done():
            self._settled.set_result(None)
        self.backend.ready(self)

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None:
        """Send calls that the instance did not look at somewhere else."""
        for stream in [s for s in self.connection.streams.values() if s.id > last_stream_id]:
            owner = stream.owner
            self.connection.forget(stream)
            owner.on_reset(ErrorCode.REFUSED_STREAM, "the instance is closing its connection")
        self._go()
        self.backend.ready(self)

    def on_whole_answer(self, stream: Stream, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """Pass on a whole answer at once, if its call takes it so."""
        owner = stream.owner
        return isinstance(owner, Exchange) and owner.on_whole_answer(answer, data, trailers)

    def on_ping_ack(self, payload: bytes) -> None:
        """Free what was reset before the PING; any answer shows that the instance lives."""
        if payload == _KEEPALIVE_PING and self._keepalive_by < inf:
            self._keepalive_by = inf
        elif payload == _RESET_PING and self._pinged:
            self._keepalive_by = inf
            self._settle_resets()
        else:
            self.connection.budget.glitch(self.connection.now)

    def lost(self, cause: str) -> None:
        """Fail every call of this connection, and only those."""
        name = self.backend.route.name
        failure = f"connection to instance '{name}' lost: {cause}"
        broke = self._broke
        self.switch.counters.closed(name)
        self._go()
        self.backend.remove(self)
        for stream in list(self.connection.streams.values()):
            owner = stream.owner
            self.connection.forget(stream)
            if isinstance(owner, Exchange):
                owner.fail(Code.UNAVAILABLE, failure)
        for exchange in self._resetting + self._pinged:
            exchange.gone()
        self._resetting, self._pinged = [], []
        if not self._settled.done():
            self._settled.set_exception(ConnectionError(cause))
        self.backend.lost(failure if broke else None)

    def check(self, now: float) -> None:
        """Ask an instance that is silent while it has calls; close a connection without any."""
        super().check(now)
        if self.connection.closing:
            return
        self._look_at_window()
        options = self.switch.options
        silent = now - self.connection.now
        if now > self._keepalive_by:
            self.connection.fail(ErrorCode.NO_ERROR, "no answer to PING")
            self.abort()
        elif self.live and silent > options.keepalive_secs and self._keepalive_by == inf:
            self._keepalive_by = now + options.keepalive_timeout_secs
            self.connection.emit(frames.ping(_KEEPALIVE_PING))
        elif not self.live and now - self.idle_since > IDLE_SECONDS:
            self.retire()

    def end_calls(self, message: str) -> None:
        """Fail every call that is not over, and reset it at the instance."""
        for stream in list(self.connection.streams.values()):
            owner = stream.owner
            if isinstance(owner, Exchange) and not owner.over:
                owner.abandon(Code.UNAVAILABLE, message)

    def retire(self) -> None:
        """Take no more calls; close when the last one is over."""
        self.connection.going = True
        if not self.connection.streams:
            self.connection.closing = True
            self.connection.emit(b"")

    def abort(self) -> None:
        """Cut the connection, and `lost` follows; or give up one that was never made."""
        if self.transport is not None:
            self.transport.abort()
        else:
            self.connection.closing = True
            self.connection.handler = GONE  # or the two would keep each other

    def _go(self) -> None:
        """Tell the backend once that this connection takes no more calls."""
        if self.connection.settled and not self._went:
            self._went = True
            self.backend.went(self.connection.received > 0)

    @property
    def _broke(self) -> bool:
        """Whether the loss of this connection says that the instance is not well.

        One that goes without calls, or after GOAWAY, has only said goodbye; so an instance that
        goes whenever it is idle is not called back each time.
        """
        connection = self.connection
        return self.live > 0 and (connection.error is not None or not connection.going)

    def _look_at_window(self) -> None:
        """See whether the window is held; one low reading may be only a moment of much traffic."""
        connection = self.connection
        low = connection.send_window * 2 < connection.largest_send_window
        self.crowded, self._was_low = low and self._was_low, low
        if self.crowded:
            self.backend.relieve()

    def _settle_resets(self) -> None:
        pinged, self._pinged = self._pinged, []
        for exchange in pinged:
            exchange.gone()
        while self._deferred and len(self._resetting) < MAX_YOUNG_RESETS:
            exchange, stream = self._deferred.popleft()
            if not exchange.is_gone:
                self._reset(exchange, stream)
        self._ping_behind_resets()

    def _reset(self, exchange: Exchange, stream: Stream) -> None:
        self.connection.reset(stream, ErrorCode.CANCEL)
        self._resetting.append(exchange)
        self._ping_behind_resets()

    def _ping_behind_resets(self) -> None:
        if self._resetting and not self._pinged:
            self._pinged, self._resetting = self._resetting, []
            self.connection.emit(frames.ping(_RESET_PING))
