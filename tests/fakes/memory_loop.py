"""An event loop without a clock and without sockets: time passes when a test says so.

Theory
    `VirtualLoop` is asyncio's own loop with two things changed. Its time is a number, which moves
    only in `advance`, from timer to timer. And its connections are `Wire` objects: what a protocol
    writes stays there until somebody takes it. So ten minutes of idling take no time, every run is
    the same, and a run of a thousand steps opens no file descriptor.

Rules of this file
    1. `settle` turns the loop until nothing is ready; it never advances time.
    2. Whoever makes a loop closes it; tasks that are left are the test's mistake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tei_manager.mux.listener import Client

TIMER_DELAY = 1e-6
"""Seconds by which a timer is late. One that came at its very time might come a rounding too early
for what it waits for, and would be set again and again while no time passes."""


class _NoSelector:
    """There are no file descriptors, so there is nothing to wait for."""

    def select(self, timeout: float | None) -> list[Any]:
        return []

    def close(self) -> None: ...


class Wire(asyncio.Transport):
    """The transport of one end of a connection; the other end is the test.

    Args:
        loop: Whose protocol it is.
        protocol: A buffered protocol, fed with `deliver`.

    ``written`` is what the protocol wrote and the test has not taken.
    """

    def __init__(self, loop: VirtualLoop, protocol: Any) -> None:
        super().__init__()
        self._loop, self._protocol = loop, protocol
        self.written = bytearray()
        self._unread = bytearray()
        self._high = 64 << 10
        self._paused = self._reading_paused = self._closing = False
        self.lost = False

    def take(self, most: int = 1 << 30) -> bytes:
        """Take what was written, as a peer's kernel does."""
        data = bytes(self.written[:most])
        del self.written[:most]
        if self._paused and len(self.written) <= self._high // 4:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing and not self.written:
            self._lose(None)
        return data

    def deliver(self, data: bytes) -> None:
        """Give octets to the protocol, now or once it reads again."""
        if self._closing:
            return
        self._unread += data
        self._feed()

    def _feed(self) -> None:
        while self._unread and not (self._reading_paused or self._closing):
            buffer = self._protocol.get_buffer(-1)
            size = min(len(buffer), len(self._unread))
            buffer[:size] = self._unread[:size]
            del self._unread[:size]
            self._protocol.buffer_updated(size)

    def cut(self, error: Exception | None = None) -> None:
        """End the connection from the other side."""
        self._closing = True
        self.written.clear()
        self._lose(error)

    def _lose(self, error: Exception | None) -> None:
        if not self.lost:
            self.lost = True
            self._loop.call_soon(self._protocol.connection_lost, error)

    # What a protocol calls

    def write(self, data: Any) -> None:
        """Keep octets for the other end."""
        if self._closing:
            return
        self.written += data
        if len(self.written) > self._high and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Follow the protocol's wish."""
        self._high = high if high is not None else self._high

    def get_write_buffer_size(self) -> int:
        """Return how many octets the other end has not taken."""
        return len(self.written)

    def can_write_eof(self) -> bool:
        """Close both ways at once: nothing is lost on the way here."""
        return False

    def pause_reading(self) -> None:
        """Keep what comes."""
        self._reading_paused = True

    def resume_reading(self) -> None:
        """Go on with what was kept."""
        self._reading_paused = False
        self._loop.call_soon(self._feed)

    def is_closing(self) -> bool:
        """Say whether the protocol closed it, or the peer."""
        return self._closing

    def close(self) -> None:
        """Close once all that was written has been taken."""
        self._closing = True
        if not self.written:
            self._lose(None)

    def abort(self) -> None:
        """Close at once."""
        self.cut()


class VirtualLoop(asyncio.BaseEventLoop):
    """The loop. ``dial`` gets the wires that it opens, ``accept`` makes those that it takes.

    A ``dial`` that raises `OSError` refuses the connection.
    """

    def __init__(self) -> None:
        super().__init__()
        self._selector = _NoSelector()
        self.now = 1000.0
        self.dial: Callable[[str, int, Wire], None] | None = None
        self.accept: Callable[[], Any] | None = None
        self.signals: dict[int, Callable[[], object]] = {}
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        """Seconds, as far as the test has advanced them."""
        return self.now

    def _process_events(self, event_list: list[Any]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody waits in a selector."""

    def settle(self) -> None:
        """Turn until nothing is ready at this time."""
        while self._ready or (self._scheduled and self._due() <= self.now):  # type: ignore[attr-defined]
            self.call_soon(self.stop)
            self.run_forever()
        assert not self.errors, self.errors

    def advance(self, seconds: float) -> None:
        """Let time pass, a timer at a time."""
        end = self.now + seconds
        self.settle()
        while self._scheduled and self._due() <= end:  # type: ignore[attr-defined]
            self.now = max(self.now, self._due() + TIMER_DELAY)
            self.settle()
        self.now = end
        self.settle()

    def _due(self) -> float:
        when: float = self._scheduled[0].when()  # type: ignore[attr-defined]
        return when

    def connect(self) -> Wire:
        """Be a client of whoever listens."""
        if self.accept is None:
            raise ConnectionRefusedError
        protocol = self.accept()
        wire = Wire(self, protocol)
        protocol.connection_made(wire)
        return wire

    async def create_connection(  # type: ignore[override]
        self, protocol_factory: Callable[[], Any], host: str, port: int
    ) -> tuple[Wire, Any]:
        """Open a wire to whom ``dial`` knows."""
        await asyncio.sleep(0)
        if self.dial is None:
            raise ConnectionRefusedError
        protocol = protocol_factory()
        wire = Wire(self, protocol)
        self.dial(host, port, wire)
        protocol.connection_made(wire)
        return wire, protocol

    def add_reader(self, fd: Any, callback: Callable[..., object], *args: Any) -> None:  # type: ignore[override]
        """Give the wires of `connect` from now on to whom a worker's acceptor would accept."""
        switch = callback.__self__._switch  # type: ignore[attr-defined]
        self.accept = lambda: Client(switch, lambda: None)

    def remove_reader(self, fd: Any) -> bool:
        """Accept nobody any more."""
        self.accept = None
        return True

    def add_signal_handler(self, sig: int, callback: Callable[[], object], *args: Any) -> None:  # type: ignore[override]
        """Keep what a signal does; a test calls it."""
        self.signals[sig] = callback
