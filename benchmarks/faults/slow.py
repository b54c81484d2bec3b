"""Five ways to keep a server waiting, and how long each server lets one do so.

A server acts when it closes the connection, or sends GOAWAY, RST_STREAM or an answer. All kinds
wait at all servers at once, since nothing happens meanwhile. A client whose preface is whole
acknowledges SETTINGS before it goes on, so that it is the slowness that is answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from time import monotonic
from typing import Any

from benchmarks.faults.attack import FrameReader
from benchmarks.faults.requests import HEAD, HELLO, head
from benchmarks.faults.servers import Server
from tei_manager.wire import frames

KINDS = {
    "nothing": (b"", b""),
    "half a preface": (frames.PREFACE[:12], b""),
    "preface and SETTINGS, no call": (HELLO, b""),
    "a header block without end": (HELLO, frames.frame(frames.HEADERS, 0, 1, HEAD)),
    "a call without DATA": (HELLO, head(1)),
}
"""What each client sends before it falls silent: at once, and behind its answer to SETTINGS."""

_ACTS = {
    frames.GOAWAY: "GOAWAY",
    frames.RST_STREAM: "RST_STREAM",
    frames.HEADERS: "answer",
}


def run(servers: Sequence[Server], limit: float) -> dict[str, dict[str, Any]]:
    """Wait at most ``limit`` seconds; returns what each server did, by server and kind.

    ``seconds`` is None where nothing happened in that time.
    """
    return asyncio.run(_run(servers, limit))


async def _run(servers: Sequence[Server], limit: float) -> dict[str, dict[str, Any]]:
    rows = await asyncio.gather(*(_wait_at(server.port, limit) for server in servers))
    return {server.name: row for server, row in zip(servers, rows, strict=True)}


async def _wait_at(port: int, limit: float) -> dict[str, Any]:
    ends = await asyncio.gather(*(_wait(port, *octets, limit) for octets in KINDS.values()))
    return dict(zip(KINDS, ends, strict=True))


async def _wait(port: int, opening: bytes, rest: bytes, limit: float) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    begun = monotonic()
    writer.write(opening)
    try:
        async with asyncio.timeout(limit):
            if opening == HELLO:
                await _settings(reader)
                writer.write(frames.SETTINGS_ACK + rest)
            how = await _until_it_acts(reader)
    except TimeoutError:
        return {"how": "nothing", "seconds": None}
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return {"how": how, "seconds": round(monotonic() - begun, 1)}


async def _settings(reader: asyncio.StreamReader) -> None:
    """Read the server's first frame, which is SETTINGS."""
    word, _, _ = frames.unpack_header(await reader.readexactly(9))
    await reader.readexactly(word >> 8)


async def _until_it_acts(reader: asyncio.StreamReader) -> str:
    seen = FrameReader()
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            seen.feed(data)
            for kind, how in _ACTS.items():
                if seen.kinds[kind]:
                    return how
    return "closed"
