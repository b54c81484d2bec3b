"""Looks names up without taking a thread that anything else waits for.

The system's lookup cannot be given up: it keeps its thread until a name server has answered or
until the system's own time-outs are over, half a minute in all. So each name has a thread of its
own while it is looked up, and one only: whoever asks meanwhile joins the lookup under way. The
threads are daemons, so that a process that ends waits for none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import threading
from functools import partial


class Resolver:
    """The lookups that are under way in one loop, at most one for each name."""

    def __init__(self) -> None:
        self._under_way: dict[str, asyncio.Future[list[str]]] = {}

    def __repr__(self) -> str:
        return f"<Resolver: {len(self._under_way)} under way>"

    async def look_up(self, host: str) -> list[str]:
        """Return the IP addresses of a host in the system's order; an address is its own.

        Raises:
            socket.gaierror: The name is not known, or not now.
            UnicodeError: It cannot be a name.

        Cancellation:
            Stops the waiting only.
        """
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        return await asyncio.shield(self._under_way.get(host) or self._begin(host))

    def _begin(self, host: str) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()
        ask = threading.Thread(target=_ask, args=(loop, answer, host), name=host, daemon=True)
        try:
            ask.start()
        except RuntimeError as error:
            raise socket.gaierror(socket.EAI_AGAIN, str(error)) from error
        self._under_way[host] = answer
        answer.add_done_callback(partial(self._over, host))
        return answer

    def _over(self, host: str, answer: asyncio.Future[list[str]]) -> None:
        del self._under_way[host]
        if not answer.cancelled():
            answer.exception()  # whoever asked may have gone


def _ask(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[list[str]], host: str) -> None:
    """Ask the system, in a thread, and hand over what it says."""
    found: list[str] = []
    error: Exception | None = None
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        found = [str(where[0]) for *_, where in answers]
    except (OSError, UnicodeError) as raised:
        error = raised
    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
        loop.call_soon_threadsafe(_settle, answer, found, error)


def _settle(answer: asyncio.Future[list[str]], found: list[str], error: Exception | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(found)
