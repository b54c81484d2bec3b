"""Files that a worker takes up anew while it serves: certificates, tokens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tei_manager.watched import Watched


@asynccontextmanager
async def kept_fresh(*given: Watched | None) -> AsyncIterator[None]:
    """Take up changed files while the body runs: soon after the change, or at SIGHUP."""
    loop = asyncio.get_running_loop()
    watched = [files for files in given if files is not None]

    def look_now() -> None:
        for files in watched:
            files.look_now()

    if watched:
        loop.add_signal_handler(signal.SIGHUP, look_now)
    watching = [loop.create_task(files.watch()) for files in watched]
    try:
        yield
    finally:
        for task in watching:
            task.cancel()
