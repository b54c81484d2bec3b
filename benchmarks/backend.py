"""A stand-in for TEI that costs little, since it shares a core with the load.

It looks into no header block, so it serves every method, enveloped or not. It answers each message
once it is whole; how the message ends says with what (`benchmarks.answers`). The messages of one
call must be equally long: then their octets tell how many have come. Windows are kept on both
sides, those for requests as wide as TEI's.

    python -m benchmarks.backend PORT [SERVICE_US]

With a service time every message is answered so many µs after it came, however many others are
under way, as a model does whose batch has room.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from functools import partial
from typing import cast

import uvloop

from benchmarks.answers import TRAILERS, answer, blocks
from benchmarks.frames import FrameReader
from benchmarks.processes import wake_exactly
from tei_manager.wire import frames
from tei_manager.wire.frames import (
    DATA,
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    pack_header,
)
from tei_manager.wire.hpack import DEFAULT_TABLE_SIZE

WINDOW = 1 << 20
"""Receive window of a stream and of a connection: that of hyper, TEI's HTTP/2 library."""

_HELLO = frames.settings({frames.INITIAL_WINDOW_SIZE: WINDOW}) + frames.window_update(
    0, WINDOW - DEFAULT_WINDOW
)


class _Call:
    """One call: what has come of it, and what is still to be sent."""

    __slots__ = (
        *("answered", "credit", "ended", "headed", "id", "making", "octets", "rest", "size"),
        "window",
    )

    def __init__(self, stream_id: int, window: int) -> None:
        self.id = stream_id
        self.window = window  # what the proxy lets us send
        self.octets = self.credit = self.size = self.answered = 0
        self.making = 0  # answers whose service time runs
        self.rest = bytearray()  # of answers, while windows are shut
        self.ended = self.headed = False

    def due(self, data: bytes) -> int:
        """Take octets of messages, and return how many messages have become whole."""
        if not self.octets:
            self.size = 5 + int.from_bytes(data[1:5], "big")
        self.octets += len(data)
        due = self.octets // self.size - self.answered
        self.answered += due
        return due


class Backend(asyncio.Protocol):
    """One connection of a proxy.

    Args:
        service: Seconds from a message to its answer.
    """

    def __init__(self, service: float = 0.0) -> None:
        self._service = service
        self._reader = FrameReader()
        self._greeting = len(frames.PREFACE)
        self._calls: dict[int, _Call] = {}
        self._shut: dict[int, _Call] = {}
        self._out: list[bytes] = [_HELLO]
        self._window = self._stream_window = DEFAULT_WINDOW
        self._credit = 0
        self._blocks = blocks(DEFAULT_TABLE_SIZE)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the proxy."""
        self._transport = cast(asyncio.Transport, transport)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Answer what has come, all of it with one write."""
        if self._greeting:
            skipped = min(self._greeting, len(data))
            self._greeting -= skipped
            data = data[skipped:]
        for kind, flags, stream_id, payload in self._reader.feed(data):
            if kind == DATA:
                self._on_data(stream_id, payload, flags)
            elif kind == HEADERS:
                self._calls[stream_id] = _Call(stream_id, self._stream_window)
            else:
                self._control(kind, flags, stream_id, payload)
        if self._out:
            self._flush()

    def _flush(self) -> None:
        self._transport.write(b"".join(self._out))
        self._out.clear()

    def _on_data(self, stream_id: int, data: bytes, flags: int) -> None:
        call = self._calls.get(stream_id)
        self._refill(call, len(data))
        if call is None:
            return  # reset by the proxy
        if data and (due := call.due(data)):
            self._serve(call, chr(data[-1]), due)
        if flags & END_STREAM:
            call.ended = True
            self._end(call)

    def _serve(self, call: _Call, last: str, due: int) -> None:
        """Answer messages now, or when their service time is over."""
        if not self._service:
            self._answer(call, last, due)
            return
        call.making += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self._service, self._answer_late, call, last, due)

    def _answer_late(self, call: _Call, last: str, due: int) -> None:
        call.making -= 1
        if call.id in self._calls and not self._transport.is_closing():
            self._answer(call, last, due)
            self._end(call)
            self._flush()

    def _refill(self, call: _Call | None, size: int) -> None:
        self._credit += size
        if self._credit > WINDOW // 2:
            self._out.append(frames.window_update(0, self._credit))
            self._credit = 0
        if call is not None:
            call.credit += size
            if call.credit > WINDOW // 2:
                self._out.append(frames.window_update(call.id, call.credit))
                call.credit = 0

    def _answer(self, call: _Call, last: str, times: int) -> None:
        if not call.headed:
            call.headed = True
            block = next(self._blocks)
            self._out += (pack_header(len(block) << 8 | HEADERS, END_HEADERS, call.id), block)
        message = answer(last)
        for _ in range(times):
            if call.rest or len(message) > min(self._window, call.window, DEFAULT_MAX_FRAME):
                call.rest += message
            else:
                self._send(call, message)
        if call.rest:
            self._pour(call)

    def _send(self, call: _Call, payload: bytes) -> None:
        size = len(payload)
        self._window -= size
        call.window -= size
        self._out += (pack_header(size << 8 | DATA, 0, call.id), payload)

    def _pour(self, call: _Call) -> None:
        """Send what the windows allow of a call's rest."""
        while call.rest and (most := min(self._window, call.window)) > 0:
            piece = bytes(call.rest[: min(most, DEFAULT_MAX_FRAME)])
            del call.rest[: len(piece)]
            self._send(call, piece)
        if call.rest:
            self._shut[call.id] = call
        else:
            self._shut.pop(call.id, None)
            self._end(call)

    def _end(self, call: _Call) -> None:
        if call.ended and not call.rest and not call.making:
            header = pack_header(len(TRAILERS) << 8 | HEADERS, END_HEADERS | END_STREAM, call.id)
            self._out += (header, TRAILERS)
            self._calls.pop(call.id, None)

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._widen(stream_id, frames.unpack_u32(payload)[0])
        elif kind == frames.SETTINGS and not flags & frames.ACK:
            self._on_settings(dict(frames.unpack_setting(payload)))
        elif kind == frames.PING and not flags & frames.ACK:
            self._out.append(frames.ping(payload, ack=True))
        elif kind == frames.RST_STREAM:
            self._calls.pop(stream_id, None)
            self._shut.pop(stream_id, None)

    def _widen(self, stream_id: int, increment: int) -> None:
        if stream_id:
            if call := self._calls.get(stream_id):
                call.window += increment
                if call.rest:
                    self._pour(call)
            return
        self._window += increment
        for call in list(self._shut.values()):
            self._pour(call)

    def _on_settings(self, values: dict[int, int]) -> None:
        """Take the proxy's windows and its table, before the first call of the connection."""
        self._stream_window = values.get(frames.INITIAL_WINDOW_SIZE, self._stream_window)
        if frames.HEADER_TABLE_SIZE in values:
            self._blocks = blocks(values[frames.HEADER_TABLE_SIZE])
        self._out.append(frames.SETTINGS_ACK)


async def _main(port: int, service: float) -> None:
    backend = partial(Backend, service)
    server = await asyncio.get_running_loop().create_server(backend, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


def _exact_loop() -> asyncio.AbstractEventLoop:
    """Return a loop whose timers are exact to microseconds; uvloop's and epoll's are to a ms."""
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main(port: int, service_us: float = 0.0) -> None:
    """Serve on a port until the process is ended."""
    if not service_us:
        uvloop.run(_main(port, 0.0))
        return
    wake_exactly()
    with asyncio.Runner(loop_factory=_exact_loop) as runner:
        runner.run(_main(port, service_us / 1e6))


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(float, sys.argv[2:]))
