"""A client's and an instance's connection to one switch, in memory: octets in, octets out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from multiplexer import path

from tei_manager.mux import endpoint
from tei_manager.mux.admission import TokenClient
from tei_manager.mux.listener import Client
from tei_manager.mux.switch import Options, Switch
from tei_manager.mux.upstream import Upstream
from tei_manager.routes import Route, RouteTable
from tei_manager.telemetry.counters import Counters
from tei_manager.tokens import Tokens
from tei_manager.wire import frames, hpack

LAST = frames.END_HEADERS | frames.END_STREAM
_SETTINGS = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 24}) + frames.window_update(
    0, 1 << 28
)


class Pipe(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def set_write_buffer_limits(self, *_limits: Any, **_more: Any) -> None: ...

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...

    def abort(self) -> None: ...


def block(*fields: tuple[bytes, bytes]) -> bytes:
    """A header block of literals."""
    return b"".join(hpack.literal(name, value) for name, value in fields)


def request_block(method: str, metadata: Sequence[tuple[bytes, bytes]] = ()) -> bytes:
    """The header block of a call."""
    return block(
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path(method).encode()),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        *metadata,
    )


def feed(side: endpoint.Endpoint, chunks: Sequence[bytes]) -> None:
    """Give octets to one side as the event loop would."""
    for chunk in chunks:
        for start in range(0, len(chunk), endpoint.READ_BUFFER):
            part = chunk[start : start + endpoint.READ_BUFFER]
            side.get_buffer(-1)[: len(part)] = part
            side.buffer_updated(len(part))
            side.switch.flush()


def cut(wire: bytes, at: Sequence[int]) -> list[bytes]:
    """Octets in chunks that end at these places, modulo their number."""
    places = [0, *sorted(place % (len(wire) + 1) for place in at), len(wire)]
    return [wire[start:stop] for start, stop in pairwise(places)]


class Board:
    """A switch with one client and one instance, "a"; `close` it."""

    def __init__(self, tokens: Tokens | None = None, **options: Any) -> None:
        limits = Options(request_timeout_secs=0, **options)
        self.switch = Switch(asyncio.get_running_loop(), limits, Counters())
        self.switch.apply(RouteTable(1, [Route("a", port=1)]))
        self.up, self.down = Pipe(), Pipe()
        self.instance = Upstream(self.switch, self.switch.backends["a"])
        self.client: Client
        if tokens is None:
            self.client = Client(self.switch, lambda: None)
        else:
            self.client = TokenClient(self.switch, lambda: None, None, tokens)
        self.instance.connection_made(self.up)
        feed(self.instance, [_SETTINGS])
        self.client.connection_made(self.down)
        feed(self.client, [frames.PREFACE + _SETTINGS])

    def close(self) -> None:
        """Stop the switch's timers."""
        self.switch.close()


def payload(wire: bytes | bytearray) -> tuple[bytes, int]:
    """All DATA of one side's octets, and how many frames carried it."""
    out, count, pos = b"", 0, 0
    while pos < len(wire):
        word, _, _ = frames.unpack_header(wire, pos)
        stop = pos + 9 + (word >> 8)
        if word & 0xFF == frames.DATA:
            out += wire[pos + 9 : stop]
            count += 1
        pos = stop
    return out, count
