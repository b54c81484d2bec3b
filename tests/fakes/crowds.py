"""Many connections one after the other, and many large calls at the same time, through a `Soak`."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc.aio
from multiplexer import embed, framed, path
from wire_pair import HELLO, block, data

from soak import Soak
from tei_manager.wire import frames

LARGE_REQUEST = 271_828
LARGE_ANSWER = 314_159
"""Octets of gRPC's interop case large_unary."""

ANSWERED = b"\x0bgrpc-status\x010"
"""How the switch writes the trailer of a call that went well: a literal with its name."""

CONNECT_SECONDS = 30.0
LARGE_SECONDS = 300.0

_CALL = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", path("Embed").encode()),
    (b":authority", b"crowd"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)


async def connections(load: Soak, count: int, callers: int = 8) -> Counter[str]:
    """Connect, make one call and go, ``count`` times in all; count how they ended."""
    ends: Counter[str] = Counter()
    hello = HELLO + frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block(*_CALL))
    octets = hello + data(1, framed(embed("crowd")), True)

    async def some(share: int) -> None:
        for _ in range(share):
            ends[await _one_connection(load.port, octets)] += 1

    shares = [count // callers + (number < count % callers) for number in range(callers)]
    await asyncio.gather(*map(some, shares))
    return ends


async def _one_connection(port: int, octets: bytes) -> str:
    """Make one call on a connection of its own."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(octets)
            seen = b""
            while ANSWERED not in seen:
                more = await reader.read(4096)
                if not more:
                    return "closed without an answer"
                seen += more
            writer.close()
            await writer.wait_closed()
    except OSError as error:  # TimeoutError is one
        return repr(error)
    return "ok"


async def large(load: Soak, calls: int, channels: int) -> Counter[str]:
    """Make so many large unary calls at the same time; count how they ended."""
    order = f"flood 1 {LARGE_ANSWER} "
    request = embed(order + "x" * (LARGE_REQUEST - len(order)))
    opened = [load.channel() for _ in range(channels)]
    try:
        asked = (_one_large(opened[number % channels], request) for number in range(calls))
        return Counter(await asyncio.gather(*asked))
    finally:
        for channel in opened:
            await channel.close()


async def _one_large(channel: Any, request: bytes) -> str:
    try:
        reply = await channel.unary_unary(path("Embed"))(request, timeout=LARGE_SECONDS)
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name} {error.details()}"
    return "ok" if reply == bytes(LARGE_ANSWER) else "wrong octets"
