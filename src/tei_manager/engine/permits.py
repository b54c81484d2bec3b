"""How many requests may be under way: ``--max-concurrent-requests``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from tei_manager.engine.refusals import overloaded


class _HasFuture(Protocol):
    @property
    def future(self) -> asyncio.Future[Any]: ...


_Started = TypeVar("_Started", bound=_HasFuture)


class Permits:
    """A fixed number of permits: a unary call tries to get one, a stream's item waits for one.

    Items of streams may hold three quarters of them. In TEI they may hold all, and one busy stream
    then makes every unary call fail.

    Args:
        limit: How many there are, at least one.
    """

    def __init__(self, limit: int) -> None:
        self._all = asyncio.Semaphore(limit)
        self._streams = asyncio.Semaphore(limit - limit // 4)

    async def take(self) -> None:
        """Take a permit at once.

        Raises:
            Refusal: RESOURCE_EXHAUSTED, none is free.
        """
        if self._all.locked():
            raise overloaded()
        await self._all.acquire()

    def give_back(self) -> None:
        """Return a permit that `take` gave."""
        self._all.release()

    async def lend(self, start: Callable[[], Awaitable[_Started]]) -> _Started:
        """Wait for a permit for an item of a stream, start on it, and return what was started.

        The permit goes back when the item's future is done, or at once if it cannot be started.

        Cancellation:
            No permit is held afterwards.
        """
        await self._wait()
        try:
            started = await start()
        except BaseException:
            self._give_back_waited()
            raise
        started.future.add_done_callback(lambda _: self._give_back_waited())
        return started

    async def _wait(self) -> None:
        await self._streams.acquire()
        try:
            await self._all.acquire()
        except asyncio.CancelledError:
            self._streams.release()
            raise

    def _give_back_waited(self) -> None:
        self._all.release()
        self._streams.release()
