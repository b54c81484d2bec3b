"""Files that are looked at once a second while something serves, and taken up when they change."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from contextlib import suppress

LOOK_SECONDS = 1.0
"""How often they are looked at: a few calls of stat(2), in a thread."""


class Watched(ABC):
    """What stands in files that may change; `watch` looks after them until cancelled."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    async def watch(self) -> None:
        """Look after the files until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._asked.wait()
            self._asked.clear()
            await asyncio.to_thread(self.refresh)

    def look_now(self) -> None:
        """Let `watch` look at once."""
        self._asked.set()

    @abstractmethod
    def refresh(self) -> None:
        """Take up the files if they have changed; what cannot be used is logged once."""
