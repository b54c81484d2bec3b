"""Attackers and slow readers beside an honest client of a real process: what it notices of them."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import monotonic
from typing import Any

import grpc.aio
import h2.events
import pytest
from attackers import CLIENTS
from fake_tei import fake_tei
from floods import FLOODS
from http2_peer import Peer, connect
from multiplexer import CHANNEL_OPTIONS, embed, framed, multiplexer_process, path

pytestmark = pytest.mark.asyncio

logger = logging.getLogger(__name__)

READERS = 64
NOTICEABLE = 0.5
"""Seconds that a call may take beside an attack on a machine that does other work at the same time;
0.05 is what is promised; what it was is logged."""


def memory(pid: int) -> float:
    """Resident memory of a process in MiB."""
    shown = subprocess.run(("ps", "-o", "rss=", "-p", str(pid)), capture_output=True, check=True)
    return int(shown.stdout) / 1024


@asynccontextmanager
async def attackers(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that floods on demand, ended at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "attackers", str(port)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


async def timed(ask: Any) -> float:
    """Make one call; return its seconds."""
    start = monotonic()
    assert await ask(embed(), timeout=30)
    return monotonic() - start


async def order(process: asyncio.subprocess.Process, name: str) -> tuple[int, float]:
    """Have one flood made; return how many connections were ended, and the seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(name.encode() + b"\n")
    ended, seconds = (await process.stdout.readline()).split()
    return int(ended), float(seconds)


async def test_every_flood_from_twenty_clients_is_ended_and_an_honest_one_hardly_notices() -> None:
    async with (
        fake_tei() as tei,
        multiplexer_process(("a", tei.port)) as mux,
        attackers(mux.port) as process,
        grpc.aio.insecure_channel(mux.address, options=CHANNEL_OPTIONS) as channel,
    ):
        raw: Any = channel
        ask = raw.unary_unary(path("Embed"))
        for _ in range(300):
            await timed(ask)
        before, worst = memory(mux.process.pid), {}
        for name in FLOODS:
            attack = asyncio.create_task(order(process, name))
            took = [await timed(ask)]
            while not attack.done():
                took.append(await timed(ask))
                await asyncio.wait((attack,), timeout=0.01)
            ended, seconds = attack.result()
            worst[name] = max(took)
            figures = (name, ended, seconds, max(took) * 1e3, memory(mux.process.pid) - before)
            logger.info("%s: %d ended in %.2f s, worst call %.1f ms, %.1f MiB more", *figures)
            assert ended == CLIENTS, name
        grown = memory(mux.process.pid) - before
        logger.info("memory after all of them: %.1f MiB more", grown)
        assert max(worst.values()) < NOTICEABLE, worst
        assert grown < 16


async def stall(client: Peer) -> None:
    """Make eight calls for four megabytes each, and take nothing of the answers."""
    client.acknowledge = False
    calls = [
        client.request(path("EmbedAll"), data=framed(embed("flood 4 1000000")), end=True)
        for _ in range(8)
    ]
    await client.flush()
    for call in calls:
        await client.next(h2.events.ResponseReceived, call, limit=30)


def p99(seconds: list[float]) -> float:
    """The 99th percentile, in milliseconds."""
    return sorted(seconds)[len(seconds) * 99 // 100] * 1e3


async def test_64_slow_readers_of_an_instance_cost_other_callers_nothing() -> None:
    async with (
        fake_tei() as tei,
        multiplexer_process(("a", tei.port)) as mux,
        grpc.aio.insecure_channel(mux.address, options=CHANNEL_OPTIONS) as channel,
        AsyncExitStack() as readers,
    ):
        raw: Any = channel
        ask = raw.unary_unary(path("Embed"))
        for _ in range(200):
            await timed(ask)
        idle, before = [await timed(ask) for _ in range(500)], memory(mux.process.pid)
        for _ in range(READERS // 8):
            await stall(await readers.enter_async_context(connect(mux.port)))
        beside, grown = [await timed(ask) for _ in range(500)], memory(mux.process.pid) - before
        logger.info("99th percentile: %.1f ms idle, %.1f ms beside", p99(idle), p99(beside))
        logger.info("memory: %.1f MiB more for %d readers", grown, READERS)
        assert p99(beside) < max(3 * p99(idle), 100)
        assert grown <= READERS / 16 + 8
