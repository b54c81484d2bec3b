"""Answers as TEI gives them: 384 floats, or up to 10 MB, under header blocks that all differ.

The blocks have TEI's eight ``x-*`` fields and ``date``, with values that change from call to call,
written as TEI's HTTP/2 library writes them: an index where the dynamic table has the field, else a
Huffman-coded literal that is inserted into the table; literals alone for a proxy whose SETTINGS
allow no table. That is the hard case for a proxy.

All of it is encoded beforehand. The values go round, and so, after a few rounds, does the table:
from then on the blocks of a connection are the same ones again, round by round.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from email.utils import formatdate
from functools import cache
from itertools import chain, cycle

import hpack

from benchmarks.calls import SIZES
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.wire import messages
from tei_manager.wire.hpack import integer

VARIANTS = 512
"""Different sets of values, used in turn."""

TABLE_SIZE = 4096
"""Octets of the dynamic table at most, whatever the proxy allows (RFC 7541's default)."""

FLOATS = 384
"""Length of a vector of a small model, such as all-MiniLM-L6-v2."""

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

    @property
    def table(self) -> tuple[tuple[str, str], ...]:
        """The fields in the table, the oldest first."""
        return tuple(self._entries)

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


def blocks(table_size: int) -> Iterator[bytes]:
    """Yield the header blocks of a connection's answers, one after the other, for ever.

    Args:
        table_size: Octets of the dynamic table that the proxy lets us use.
    """
    before, again = _rounds(min(table_size, TABLE_SIZE))
    return chain(before, cycle(again))


@cache
def _rounds(table_size: int) -> tuple[list[bytes], list[bytes]]:
    """Return the blocks up to where the table is as it was before, and those from there on."""
    encoder = IndexingEncoder(table_size)
    seen: dict[tuple[tuple[str, str], ...], int] = {}
    made: list[bytes] = []
    while encoder.table not in seen:
        seen[encoder.table] = len(made)
        made += [encoder.encode(fields) for fields in VALUES]
    start = seen[encoder.table]
    return made[:start], made[start:]


@cache
def answer(last: str) -> bytes:
    """Return the framed answer to a text that ends in ``last``."""
    count = SIZES[last] // 4 if last in SIZES else FLOATS
    vector = [n / count for n in range(count)]
    return messages.frame(tei_pb2.EmbedResponse(embeddings=vector).SerializeToString())
