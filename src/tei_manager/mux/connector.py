"""Makes the connections of one instance, one at a time, and knows when not to wait for one.

Theory
    The first call to an address waits for its connection. Once an attempt has failed, or a
    connection with calls on it was lost, the address is *set aside*: calls that come are refused
    at once with the cause, while attempts go on here. The first SETTINGS of a new connection end
    that (`Backend.ready`).

    Attempts follow each other with a back-off, which is for an instance that nobody calls, and are
    given up after a few: the address is then as one that was never tried, and the next call waits
    for its connection. A call that is refused *asks* for the next attempt and gets it
    within `ASKED_PAUSE`, so an instance that comes back is in use that soon, however long it was
    away, and a thousand callers cost no more attempts than one.

    An instance may accept, say its SETTINGS, and go without an answer, each time: it has no room
    and closes, or says goodbye. Calls that wait would make connections as fast as it drops them.
    So from the second such connection in a row the next is made after the same pauses.

Known flaws
    Where calls are rare, one that falls into a pause hears a cause that is up to a second old.

Cancellation
    `close` cancels the attempt under way and cuts what has not come to its SETTINGS.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from random import uniform
from typing import TYPE_CHECKING

from tei_manager.mux.upstream import Upstream

if TYPE_CHECKING:
    from tei_manager.mux.backends import Backend
    from tei_manager.mux.switch import Switch
    from tei_manager.routes import Route

ASKED_PAUSE = 0.025
"""Seconds between two attempts while calls come: half of the 50 ms that are promised between the
return of an instance and the first success."""

FIRST_PAUSE = 0.05
LONGEST_PAUSE = 1.0
"""Seconds between attempts that nobody asks for: the first, doubled up to the last."""

JITTER = 0.2
"""Share by which a pause may be longer or shorter, so that workers do not knock in step."""

MAX_UNASKED = 5
"""Attempts in a row that nobody asked for."""


class Connector:
    """Connects to one backend.

    Args:
        backend: Whose connections are made.

    ``failure`` says why calls are refused at once; None unless the address is set aside.
    """

    def __init__(self, backend: Backend) -> None:
        self.failure: str | None = None
        self._backend = backend
        self._asked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._fruitless = 0  # connections in a row that were lost without an answer

    def start(self) -> None:
        """Make a connection, unless that is under way."""
        if self._task is None and not self._closed:
            self._task = self._backend.switch.loop.create_task(self._run())

    def set_aside(self, failure: str) -> None:
        """Refuse calls with ``failure`` until there is a new connection, and make one."""
        self.failure = failure
        self.start()

    def ask(self) -> None:
        """Have the next attempt soon: a call was refused."""
        self._asked.set()

    def went(self, fruitful: bool) -> None:
        """Note that a connection takes no more calls; ``fruitful``: it had an answer."""
        self._fruitless = 0 if fruitful else self._fruitless + 1

    def close(self) -> None:
        """Make no more connections."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._recover()
            await self._persist()
        finally:
            self._task = None
        self._backend.connected()

    async def _recover(self) -> None:
        """Pause before the next connection if the last ones brought nothing."""
        if self._fruitless > 1:
            self._asked.clear()
            doublings = min(self._fruitless - 2, 10)
            await self._was_asked(min(FIRST_PAUSE * (1 << doublings), LONGEST_PAUSE))

    async def _persist(self) -> None:
        pause, unasked = FIRST_PAUSE, 0
        while unasked < MAX_UNASKED:
            await self._attempt()
            if self.failure is None:
                return
            unasked = 0 if await self._was_asked(pause) else unasked + 1
            pause = min(2 * pause, LONGEST_PAUSE)
        self.failure = None

    async def _attempt(self) -> None:
        """Connect and wait for SETTINGS; whatever goes wrong is told to the backend."""
        backend = self._backend
        switch, route = backend.switch, backend.route
        upstream = Upstream(switch, backend)
        self._asked.clear()
        try:
            async with asyncio.timeout(switch.options.connect_timeout_secs):
                await _connect(switch, upstream, route)
                await upstream.first_settings()
        except (OSError, UnicodeError) as error:  # TimeoutError is an OSError
            upstream.abort()
            backend.unreachable(_cause(error))
        except asyncio.CancelledError:
            if not upstream.connection.settled:  # else it is the backend's, with calls on it
                upstream.abort()
            raise
        switch.flush_soon()

    async def _was_asked(self, pause: float) -> bool:
        """Pause, for less long if a call asks; say whether one did."""
        pause *= uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  # no secret hangs on it
        await asyncio.sleep(ASKED_PAUSE)
        with suppress(TimeoutError):
            async with asyncio.timeout(pause - ASKED_PAUSE):
                await self._asked.wait()
        return self._asked.is_set()


async def _connect(switch: Switch, upstream: Upstream, route: Route) -> None:
    """Connect to the first address of a route's host that takes it.

    Raises:
        OSError: None does; what is wrong with the last one, or with the name.
        UnicodeError: The name cannot be one.
    """
    *others, last = await switch.resolver.look_up(route.host)
    for address in others:
        with suppress(OSError):
            await switch.loop.create_connection(lambda: upstream, address, route.port)
            return
    await switch.loop.create_connection(lambda: upstream, last, route.port)


def _cause(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no HTTP/2 settings in time"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
