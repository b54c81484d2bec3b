"""How many requests a client of the control API may send: a rate, and a burst above it.

A client is an address; of IPv6, where a client chooses among addresses, a network of 64 bits. Those
of this machine's loopback are left alone: all its programs are one address, so a limit would let
one of them, or a web page, lock the operator out, and they can slow the manager by other ways. What
watches the manager, ``/health`` and ``/metrics``, is counted for itself, so that a client who asks
for too much of anything else stays observed.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from tei_manager.api.problems import problem

BURST_SECONDS = 5.0
"""Requests of so many seconds may come at once: a page that loads, a script that creates dozens of
instances."""

MAX_CLIENTS = 4096
"""Clients that are remembered, the latest; an earlier one begins anew with a whole burst."""

_WATCHED = frozenset({"/health", "/metrics"})

Key = tuple[int, bool]


class Rate:
    """ASGI middleware that refuses requests above a rate.

    Args:
        app: What it guards.
        per_second: Requests of one client.
        clock: Returns seconds that never fall.
    """

    def __init__(
        self, app: ASGIApp, per_second: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._per_second = per_second
        self._each = 1 / per_second
        self._ahead = max(BURST_SECONDS - self._each, 0.0)
        self._clock = clock
        # When a client's requests so far would be done with, had they come at the rate.
        self._done_at: OrderedDict[Key, float] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] == "http" and (key := _key(scope)) and (wait := self._wait(key)) > 0:
            seconds = str(math.ceil(wait))
            sentence = f"More than {self._per_second:g} requests a second; try again in {seconds} s"
            answer = problem(429, "TOO_MANY_REQUESTS", sentence, {"retry-after": seconds})
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _wait(self, key: Key) -> float:
        """Count a request; return in how many seconds it would be in time, 0 if it is."""
        now = self._clock()
        done_at = max(now, self._done_at.pop(key, now))
        wait = done_at - now - self._ahead
        self._done_at[key] = done_at if wait > 0 else done_at + self._each
        if len(self._done_at) > MAX_CLIENTS:
            self._done_at.popitem(last=False)
        return max(0.0, wait)


def _key(scope: Scope) -> Key | None:
    """Return whose request it is and what for; ``None`` if it is not limited."""
    try:
        address = ipaddress.ip_address((scope.get("client") or ("",))[0].partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or address
    if address.is_loopback:
        return None
    number = int(address) >> 64 if address.version == 6 else int(address)
    return number, scope["path"] in _WATCHED
