"""A stand-in for TEI that costs little: every call gets 384 floats and TEI's varying headers.

It is a server made of our own wire library, so that it needs no toolchain; all proxies of a run
have the same one behind them. Its headers are TEI's eight ``x-*`` fields and ``date``, with values
that change from call to call, written as TEI's HTTP/2 library writes them: an index where the
dynamic table has the field, else a Huffman-coded literal that is inserted into the table; literals
alone for a proxy whose SETTINGS allow no table. So no two blocks are the same bytes, which is the
hard case for a proxy.

    python -m benchmarks.backend PORT
"""

from __future__ import annotations

import asyncio
import struct
import sys
from collections import deque
from collections.abc import Iterable
from email.utils import formatdate
from functools import cache
from time import monotonic
from typing import Any, cast

import hpack
import uvloop

from tei_manager.wire.connection import Connection
from tei_manager.wire.handler import ConnectionHandler
from tei_manager.wire.headers import server_heads
from tei_manager.wire.hpack import integer
from tei_manager.wire.messages import frame
from tei_manager.wire.stream import Stream
from tei_manager.wire.windows import WindowPool

VARIANTS = 512
"""Different sets of values, used in turn."""

TABLE_SIZE = 4096

_huffman_coder = hpack.Encoder().huffman_coder


@cache
def _huffman(text: str) -> bytes:
    coded = _huffman_coder.encode(text.encode())
    return integer(len(coded), 7, 0x80) + coded


_STATIC_NAMES = {"content-type": 31, "date": 33}


def _name(name: str, bits: int, flags: int) -> bytes:
    """Return the beginning of a literal, with its name by index where the static table has it."""
    index = _STATIC_NAMES.get(name)
    return bytes((flags,)) + _huffman(name) if index is None else integer(index, bits, flags)


class IndexingEncoder:
    """Writes header blocks with the dynamic table of one connection (RFC 7541)."""

    def __init__(self, table_size: int = TABLE_SIZE) -> None:
        self.table_size = table_size
        self._entries: deque[tuple[str, str]] = deque()
        self._used = 0
        self._inserted = 0
        self._fields: dict[tuple[str, str], int] = {}
        self._names: dict[str, int] = {}

    def encode(self, fields: Iterable[tuple[str, str]]) -> bytes:
        """Return one block, beginning with ``:status: 200``."""
        return b"\x88" + b"".join(self._field(name, value) for name, value in fields)

    def _field(self, name: str, value: str) -> bytes:
        if not self.table_size:
            return _name(name, 4, 0x00) + _huffman(value)
        if (index := self._index(self._fields.get((name, value)))) is not None:
            return integer(index, 7, 0x80)
        index = self._index(self._names.get(name))
        self._insert(name, value)
        if index is not None:
            return integer(index, 6, 0x40) + _huffman(value)
        return _name(name, 6, 0x40) + _huffman(value)

    def _index(self, number: int | None) -> int | None:
        """Return the table index of the ``number``-th insertion, None if it is evicted."""
        if number is None or number < self._inserted - len(self._entries):
            return None
        return 61 + self._inserted - number

    def _insert(self, name: str, value: str) -> None:
        self._entries.append((name, value))
        self._used += len(name) + len(value) + 32
        self._fields[name, value] = self._names[name] = self._inserted
        self._inserted += 1
        while self._used > self.table_size:
            old_name, old_value = self._entries.popleft()
            self._used -= len(old_name) + len(old_value) + 32


def _values(turn: int) -> list[tuple[str, str]]:
    total, tokenization, queue = 3 + turn % 29, turn % 3, turn % 11
    return [
        ("content-type", "application/grpc"),
        ("x-compute-type", "gpu+optimized"),
        ("x-compute-time", str(total)),
        ("x-compute-characters", str(11 + turn * 7 % 400)),
        ("x-compute-tokens", str(4 + turn * 5 % 90)),
        ("x-total-time", str(total)),
        ("x-tokenization-time", str(tokenization)),
        ("x-queue-time", str(queue)),
        ("x-inference-time", str(2 + turn * 3 % 17)),
        ("date", formatdate(1_700_000_000 + turn // 64, usegmt=True)),
    ]


VALUES = [_values(turn) for turn in range(VARIANTS)]
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
        self._encoder = IndexingEncoder()
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
        return self._encoder.encode(VALUES[self._turn])

    def flush(self) -> None:
        self._dirty.clear()
        self._transport.write(self.connection.take())

    def on_request(self, stream: Stream, head: Any, end: bool) -> None:
        stream.owner = _Call(self, stream)

    def on_settings(self) -> None:
        """Use a dynamic table as large as ours or the proxy's, whichever is smaller."""
        size = min(TABLE_SIZE, self.connection.peer_table_size)
        if size != self._encoder.table_size:
            self._encoder = IndexingEncoder(size)

    def on_goaway(self, last_stream_id: int, code: int, debug: bytes) -> None: ...

    def on_ping_ack(self, payload: bytes) -> None: ...

    def on_whole_answer(self, stream: Stream, answer: bytes, data: bytes, trailers: bytes) -> bool:
        return False


async def _main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(int(sys.argv[1])))
