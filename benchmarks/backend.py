"""A stand-in for TEI that costs little: every call gets 384 floats and TEI's varying headers.

It is a server made of our own wire library, so that it needs no toolchain; all proxies of a run
have the same one behind them. Its header blocks are what an encoder with indexing sends: eight
``x-*`` fields and ``date``, Huffman-coded, each with a value that changes from call to call and is
inserted into the peer's dynamic table. That is the hard case for a proxy, and TEI's.

    python -m benchmarks.backend PORT
"""

from __future__ import annotations

import asyncio
import struct
import sys
from email.utils import formatdate
from time import monotonic
from typing import Any, cast

import hpack
import uvloop

from tei_manager.wire.connection import Connection
from tei_manager.wire.headers import server_heads
from tei_manager.wire.messages import frame
from tei_manager.wire.sending import ConnectionHandler
from tei_manager.wire.stream import Stream
from tei_manager.wire.windows import WindowPool

VARIANTS = 512
"""Different header blocks, used in turn."""

_encoder = hpack.Encoder()


def _huffman(text: str) -> bytes:
    coded = _encoder.huffman_coder.encode(text.encode())
    return bytes((0x80 | len(coded),)) + coded


def _inserting(name: str, value: str) -> bytes:
    """Return a literal with incremental indexing and a new name (RFC 7541 6.2.1)."""
    return b"\x40" + _huffman(name) + _huffman(value)


def _block(turn: int) -> bytes:
    times = {"total": 3 + turn % 29, "tokenization": turn % 3, "queue": turn % 11}
    fields = {
        "content-type": "application/grpc",
        "x-compute-type": "gpu+optimized",
        "x-compute-time": str(times["total"]),
        "x-compute-characters": str(11 + turn % 400),
        "x-compute-tokens": str(4 + turn % 90),
        "x-total-time": str(times["total"]),
        "x-tokenization-time": str(times["tokenization"]),
        "x-queue-time": str(times["queue"]),
        "x-inference-time": str(2 + turn % 17),
        "date": formatdate(1_700_000_000 + turn // 64, usegmt=True),
    }
    return b"\x88" + b"".join(_inserting(name, value) for name, value in fields.items())


BLOCKS = [_block(turn) for turn in range(VARIANTS)]
TRAILERS = b"\x00" + _huffman("grpc-status") + b"\x010"


def _floats(count: int) -> bytes:
    values = struct.pack(f"<{count}f", *(index / count for index in range(count)))
    size = len(values)
    return frame(b"\x0a" + bytes((0x80 | size & 0x7F, size >> 7)) + values)


ANSWER = _floats(384)


class _Call:
    """Answers each message of a call with `ANSWER`."""

    def __init__(self, server: _Server, stream: Stream) -> None:
        self._server, self._stream = server, stream
        self._begun = False

    def on_headers(self, head: Any, end: bool) -> None: ...

    def on_reset(self, code: int, reason: str) -> None: ...

    def on_sent(self) -> None: ...

    def on_data(self, data: bytes, end: bool) -> None:
        connection, stream = self._server.connection, self._stream
        if not end:
            connection.credit(stream, len(data))
        if data:
            if not self._begun:
                self._begun = True
                connection.send_headers(stream, self._server.next_block(), False)
            connection.send_data(stream, ANSWER, False)
        if end:
            connection.send_headers(stream, TRAILERS, True)
            connection.release_slot()


class _Server(asyncio.Protocol):
    def __init__(self) -> None:
        self._dirty: list[ConnectionHandler] = []
        self._turn = 0
        self.connection = Connection(
            cast(ConnectionHandler, self),
            client=False,
            dirty=self._dirty,
            pool=WindowPool(),
            heads=server_heads(),
            max_streams=1 << 20,
            now=monotonic(),
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.connection.start()
        self.flush()

    def data_received(self, data: bytes) -> None:
        self.connection.receive(data, monotonic())
        while self.connection.backlog:
            self.connection.receive(b"", monotonic())
        self.flush()

    def next_block(self) -> bytes:
        self._turn = (self._turn + 1) % VARIANTS
        return BLOCKS[self._turn]

    def flush(self) -> None:
        self._dirty.clear()
        self._transport.write(self.connection.take())

    def on_request(self, stream: Stream, head: Any, end: bool) -> None:
        stream.owner = _Call(self, stream)

    def on_settings(self) -> None: ...

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None: ...

    def on_ping_ack(self, payload: bytes) -> None: ...


async def _main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
