"""Twenty clients at once that flood, in a process of their own, so that no test pays their time.

    python attackers.py PORT

reads names of `floods.FLOODS` from standard input, one a line, and writes one line for each: how
many connections were ended by the other side, and how many seconds that took.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from time import monotonic

from floods import FLOODS
from wire_pair import HELLO

CLIENTS = 20
MOST_UNITS = 6000
"""Units that a client sends at most, three times as many as may be taken."""

PATIENCE = 10.0
"""Seconds that a connection may take to end."""


async def flood(port: int, units: Iterator[bytes]) -> bool:
    """Send a flood; return whether the other side closed the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    closed = asyncio.create_task(swallow(reader))
    writer.write(HELLO)
    for _ in range(0, MOST_UNITS, 20):
        with suppress(ConnectionError):
            writer.write(b"".join(islice(units, 20)))
            await writer.drain()
        if closed.done():
            break
    await asyncio.wait((closed,), timeout=PATIENCE)
    ended = closed.done()
    closed.cancel()
    writer.close()
    return ended


async def swallow(reader: asyncio.StreamReader) -> None:
    """Read to the end."""
    with suppress(ConnectionError):
        while await reader.read(65536):
            pass


async def attack(port: int) -> None:
    """Do what standard input says."""
    loop = asyncio.get_running_loop()
    while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        start = monotonic()
        ended = await asyncio.gather(*(flood(port, FLOODS[name]()) for _ in range(CLIENTS)))
        sys.stdout.write(f"{sum(ended)} {monotonic() - start}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(attack(int(sys.argv[1])))
