"""The HTTP/2 attacks of 2016 to 2026: what a client can send that costs and brings nothing.

Each is a function that makes its frames, unit by unit and without end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, repeat

from wire_pair import REQUEST, block, data, padded, request

from tei_manager.wire import frames, hpack
from tei_manager.wire.frames import END_HEADERS, END_STREAM, ErrorCode, frame

Flood = Callable[[], Iterator[bytes]]

CANCEL = ErrorCode.CANCEL


def calls(wire: Callable[[int], bytes], before: bytes = b"") -> Flood:
    """A flood that opens a stream for each unit."""

    def units() -> Iterator[bytes]:
        yield before
        for stream_id in count(1, 2):
            yield wire(stream_id)

    return units


def same(unit: bytes, before: bytes = b"") -> Flood:
    """A flood of equal units."""

    def units() -> Iterator[bytes]:
        yield before
        yield from repeat(unit)

    return units


def head(stream_id: int, wire: bytes, flags: int = END_HEADERS | END_STREAM) -> bytes:
    return frame(frames.HEADERS, flags, stream_id, wire)


def bomb(entry: bytes, references: int) -> Flood:
    """Seed the table with one entry, and refer to it as often as fits."""
    seed = b"\x40" + hpack.integer(1, 7) + b"x" + hpack.integer(len(entry), 7) + entry
    seeded = head(1, block(*REQUEST) + seed)
    whole = block(*REQUEST) + b"\xbe" * references
    return lambda: (
        unit
        for part in ([seeded], (frames.header_frames(n, whole, True, 16_384) for n in count(3, 2)))
        for unit in part
    )


WINDOW_ZERO = frames.settings({frames.INITIAL_WINDOW_SIZE: 0})
OPEN = request(1, end=False)
CONTROL = (b"x-a", b"\r\n")
MANY_SETTINGS = frame(frames.SETTINGS, 0, 0, (b"\0\x03" + bytes(4)) * 2400)

FLOODS: dict[str, Flood] = {
    "rapid reset": calls(lambda n: request(n, end=False) + frames.rst_stream(n, CANCEL)),
    "rapid reset of complete calls": calls(lambda n: request(n) + frames.rst_stream(n, CANCEL)),
    "reset by a window update of nothing": calls(lambda n: request(n) + frame(8, 0, n, bytes(4))),
    "reset by a window overflow": calls(
        lambda n: request(n, end=False) + frames.window_update(n, frames.LARGEST_WINDOW)
    ),
    "reset by data behind the end": calls(lambda n: request(n) + data(n, b"x")),
    "reset by headers behind the end": calls(lambda n: request(n) + request(n)),
    "reset by a priority of four octets": calls(lambda n: request(n) + frame(2, 0, n, bytes(4))),
    "reset by a dependency on itself": calls(
        lambda n: request(n) + frame(2, 0, n, frames.pack_u32(n) + b"\0")
    ),
    "reset by trailers that end nothing": calls(lambda n: request(n, end=False) * 2),
    "reset by a wrong content-length": calls(lambda n: request(n, (b"content-length", b"9"))),
    "reset by a window overrun": calls(
        lambda n: request(n, end=False) + data(n, bytes(16_384)) * 4
    ),
    "continuations of 16 KiB": same(
        frame(frames.CONTINUATION, 0, 1, bytes(16_384)), frame(frames.HEADERS, 0, 1)
    ),
    "continuations of nothing": same(frame(frames.CONTINUATION, 0, 1), frame(frames.HEADERS, 0, 1)),
    "hpack bomb of 2016": bomb(b"v" * 4000, 15_000),
    "header bomb of 2026": bomb(b"", 31_000),
    "header bomb behind closed windows": lambda: (
        unit for part in ([WINDOW_ZERO], bomb(b"", 31_000)()) for unit in part
    ),
    "pings": same(frames.ping(b"12345678")),
    "answers to pings that nobody sent": same(frames.ping(b"12345678", ack=True)),
    "settings": same(frames.settings({})),
    "settings of 2,400 entries": same(MANY_SETTINGS),
    "answers to settings that nobody sent": same(frames.SETTINGS_ACK),
    "empty data": same(data(1), OPEN),
    "data of padding": same(padded(1, b"", 200), OPEN),
    "data of an octet": same(data(1, b"x"), OPEN),
    "data of an octet behind padding": same(padded(1, b"x", 255), OPEN),
    "data of an octet and empty data in turn": same(data(1, b"x") + data(1) * 10, OPEN),
    "data of an octet for a stream that was reset": same(data(1, b"x"), request(1, CONTROL)),
    "empty data for a stream that was reset": same(data(1), request(1, CONTROL)),
    "fields without a name": calls(lambda n: head(n, block(*REQUEST) + b"\0\0\0" * 5000)),
    "requests with control octets": calls(lambda n: request(n, CONTROL)),
    "priorities": same(frame(frames.PRIORITY, 0, 3, bytes(5)), OPEN),
    "window updates of one octet": same(frames.window_update(0, 1)),
    "window updates behind a large stream number": same(
        frames.window_update(0, 1), request(frames.LARGEST_STREAM_ID, end=False)
    ),
    "unknown frames": same(frame(0x20, 0xFF, 7, b"x")),
    "resets of streams that are over": same(
        frames.rst_stream(1, CANCEL), OPEN + frames.rst_stream(1, CANCEL)
    ),
    "goodbyes": same(frames.goaway(0, 0, bytes(16_000)), OPEN),
    "streams above the limit": calls(lambda n: request(n, end=False)),
}
