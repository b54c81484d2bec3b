"""A `FakeTei` in a process of its own, which can be killed like any model server.

It forgets the calls that it has seen, so it can be asked for hours.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from fake_tei import FakeTei

OPTIONS = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
)
"""C-core drops calls by chance, with CANCELLED, when more than 1,000 wait for their handler; TEI
takes them all."""

FORGET_SECONDS = 1.0
READY_SECONDS = 60.0


class TeiProcess:
    """The process; on the same port each time it starts.

    Args:
        seed: Marks its answers, see `fake_tei.answer`; a new one counts from the next start.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        here = Path(__file__)
        path = os.pathsep.join(str(here.parents[n] / part) for n, part in ((2, "src"), (0, "")))
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            *(str(here), str(self.seed), str(self.port)),
            env={**os.environ, "PYTHONPATH": path},
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(READY_SECONDS):
            self.port = int(await self._process.stdout.readline())

    async def kill(self, number: int = signal.SIGKILL) -> None:
        """End it by a signal: no goodbye."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
            await self._process.communicate()

    def signal(self, number: int) -> None:
        """Send a signal to it."""
        assert self._process is not None
        self._process.send_signal(number)


async def serve(seed: int, port: int) -> None:
    """Serve until killed; says its port."""
    server = FakeTei(seed)
    await server.start(port, *OPTIONS)
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    while True:
        await asyncio.sleep(FORGET_SECONDS)
        server.calls.clear()
        server.arrived = asyncio.Queue()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
