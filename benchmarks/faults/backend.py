"""The server behind the proxies: does what a request's text says, and tells what it sees.

It speaks HTTP/2 with our own wire library, so that it needs no toolchain, but with patience for
everything: what a proxy lets through is to be seen, not punished. A request's text may hold one of

    ``do:hold``     no answer, ever
    ``do:wait N``   an answer after N milliseconds
    ``do:begin``    the head and one message, and no end
    ``do:flood``    messages of 16 KiB without end

and every other request is answered at its half-close. It writes a line of JSON to standard output
for each call with such a text, for each of those that is reset, for each connection that it had to
end, and ten times a second for octets sent in floods; times are ``time.monotonic()``, one clock for
all processes. It ends with its standard input.

    python -m benchmarks.faults.backend PORT
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from time import monotonic
from typing import Any, cast

import uvloop

from benchmarks.answers import TRAILERS, answer
from benchmarks.calls import SMALL_ANSWER
from tei_manager.wire import hpack
from tei_manager.wire.connection import Connection
from tei_manager.wire.frames import DEFAULT_MAX_FRAME
from tei_manager.wire.handler import ConnectionHandler
from tei_manager.wire.headers import server_heads
from tei_manager.wire.limits import AbuseBudget
from tei_manager.wire.messages import PREFIX_SIZE, frame
from tei_manager.wire.stream import Stream
from tei_manager.wire.windows import WindowPool

MAX_STREAMS = 1 << 20
"""So many that it is never the backend that refuses."""

SENT_SECONDS = 0.1
HIGH_WATER = 64 << 10
"""Octets in a transport before floods wait: asyncio's default."""

HEAD = b"\x88" + hpack.literal(b"content-type", b"application/grpc")
CHUNK = frame(bytes(DEFAULT_MAX_FRAME - PREFIX_SIZE))
"""A message that fills one DATA frame."""

_COMMAND = re.compile(rb"do:(hold|wait|begin|flood)(?: (\d+))?")


class Patience(AbuseBudget):
    """A budget that never runs out."""

    def empty_frame(self) -> None:
        """Take it."""

    def window_update(self, streams: int, data_frames: int) -> None:
        """Take it."""

    @staticmethod
    def _take(bucket: object, now: float, what: str) -> None: ...


class Journal:
    """Writes what happened, and counts the octets of floods."""

    def __init__(self) -> None:
        self.sent = self._told = 0

    def write(self, event: str, **fields: object) -> None:
        """Write one line at once."""
        print(json.dumps({"event": event, "at": monotonic(), **fields}), flush=True)

    async def tell_sent(self) -> None:
        """Write how much was sent, whenever it is more than before."""
        while True:
            await asyncio.sleep(SENT_SECONDS)
            if self.sent != self._told:
                self._told = self.sent
                self.write("sent", octets=self.sent)


class Call:
    """One call: reads the question to its end, then does what it says."""

    def __init__(self, server: Server, stream: Stream) -> None:
        self._server, self._stream = server, stream
        self._question = b""
        self._command = ""

    def on_headers(self, head: Any, end: bool) -> None:
        """Trailers of the client end the question too."""
        if end:
            self._act()

    def on_data(self, data: bytes, end: bool) -> None:
        """Collect the question."""
        self._question += data
        if end:
            self._act()
        else:
            self._server.connection.credit(self._stream, len(data))

    def on_reset(self, code: int, reason: str) -> None:
        """Tell that the other side gave up."""
        self._server.connection.release_slot()
        if self._command:
            self._server.journal.write("reset", command=self._command, reason=reason)

    def on_sent(self) -> None:
        """Go on with a flood that had to wait."""
        if self._command == "flood" and not self._stream.queued:
            self._server.loop.call_soon(self._flood)

    def _act(self) -> None:
        found = _COMMAND.search(self._question)
        if found is None:
            self.answer()
            return
        self._command = found[1].decode()
        self._server.journal.write("call", command=self._command)
        if self._command == "wait":
            self._server.loop.call_later(int(found[2]) / 1000, self._answer_late)
        elif self._command == "begin":
            self._begin()
        elif self._command == "flood":
            self._server.connection.send_headers(self._stream, HEAD, False)
            self._flood()

    def answer(self) -> None:
        """Answer with 384 floats and OK."""
        self._begin()
        if not self._stream.local_closed:
            self._server.connection.send_headers(self._stream, TRAILERS, True)
            self._server.connection.release_slot()

    def _begin(self) -> None:
        self._server.connection.send_headers(self._stream, HEAD, False)
        self._server.connection.send_data(self._stream, answer(SMALL_ANSWER), False)

    def _answer_late(self) -> None:
        if not self._stream.local_closed:
            self.answer()
            self._server.flush()

    def _flood(self) -> None:
        if self._stream.local_closed or self._stream.queued:
            return
        self._server.connection.send_data(self._stream, CHUNK, False)
        self._server.journal.sent += len(CHUNK) - self._stream.queued
        self._server.flush()
        if not self._stream.queued:
            self._server.loop.call_soon(self._flood)


class Server(asyncio.Protocol):
    """One connection from a proxy."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.loop = asyncio.get_running_loop()
        self.connection = Connection(
            cast(ConnectionHandler, self),
            client=False,
            dirty=[],
            pool=WindowPool(),
            heads=server_heads(),
            max_streams=MAX_STREAMS,
            now=monotonic(),
        )
        self.connection.budget = Patience()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(HIGH_WATER)
        self.connection.start()
        self.flush()

    def connection_lost(self, error: Exception | None) -> None:
        """End every call that is left."""
        for stream in list(self.connection.streams.values()):
            owner = stream.owner
            self.connection.forget(stream)
            owner.on_reset(0, "connection closed")

    def data_received(self, data: bytes) -> None:
        """Act on it, in turns if it is much."""
        self._transport.pause_reading()
        self._receive(data)

    def _receive(self, data: bytes = b"") -> None:
        if self._transport.is_closing():
            return
        self.connection.receive(data, monotonic())
        self.flush()
        if self.connection.backlog:
            self.loop.call_soon(self._receive)
        elif not self._transport.is_closing():
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """Let floods wait."""
        self.connection.set_writable(False)

    def resume_writing(self) -> None:
        """Let floods go on."""
        self.connection.set_writable(True)
        self.flush()

    def flush(self) -> None:
        """Write what there is, and close behind a GOAWAY."""
        self.connection.dirty.clear()
        if data := self.connection.take():
            self._transport.write(data)
        if self.connection.closing:
            self.journal.write("ended", error=str(self.connection.error))
            self._transport.close()

    def on_request(self, stream: Stream, head: Any, end: bool) -> None:
        """Give the call its owner; one without a body is answered."""
        stream.owner = call = Call(self, stream)
        if end:
            call.answer()

    def on_settings(self) -> None: ...  # noqa: D102  (nothing to follow: it uses no table)

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None: ...  # noqa: D102

    def on_ping_ack(self, payload: bytes) -> None: ...  # noqa: D102


async def _main(port: int) -> None:
    journal = Journal()
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    async with await loop.create_server(lambda: Server(journal), "127.0.0.1", port, backlog=1024):
        journal.write("listening")
        telling = asyncio.create_task(journal.tell_sent())
        await over.wait()
        telling.cancel()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
