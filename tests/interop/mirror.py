"""The service that every stack of the matrix serves, without its library: ``interop.v1.Mirror``.

Messages are octets, so that nothing is generated for four languages. In every method the values
of ``x-echo`` come back as initial metadata and those of ``x-echo-bin`` as trailing; ``x-status`` is
the status to end with, ``x-message-bin`` its message in UTF-8, and ``x-compress`` asks for a
compressed answer where the library can make one.

=========  =============  =====================================================================
Unary      unary          the message reversed
Collect    client stream  how many messages and octets there were, and their digest
Scatter    server stream  a message of each of the sizes that the question lists
Mirror     bidirectional  ``x-greet`` before anything was asked, then each message as it comes
Ended      unary          waits until the Mirror call with this ``x-call`` has ended; says so
=========  =============  =====================================================================
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterable
from typing import NamedTuple

SERVICE = "interop.v1.Mirror"

ENDED_SECONDS = 20.0
"""How long Ended waits: a cancel takes milliseconds, save on a machine that is very busy."""


class Wishes(NamedTuple):
    """What the metadata of a call asks of the server."""

    initial: list[tuple[str, str]]
    trailing: list[tuple[str, bytes]]
    status: int
    message: str
    greeting: bytes
    call: str
    compress: bool


def wishes(metadata: Iterable[tuple[str, str | bytes]]) -> Wishes:
    """Read the metadata of a call."""
    pairs = list(metadata)
    last = dict(pairs)
    return Wishes(
        [("x-echo", str(value)) for name, value in pairs if name == "x-echo"],
        [("x-echo-bin", _octets(value)) for name, value in pairs if name == "x-echo-bin"],
        int(last.get("x-status", 0)),
        _octets(last.get("x-message-bin", b"")).decode(),
        str(last.get("x-greet", "")).encode(),
        str(last.get("x-call", "")),
        "x-compress" in last,
    )


def _octets(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def digest(messages: Iterable[bytes]) -> bytes:
    """Answer Collect."""
    whole = list(messages)
    octets = b"".join(whole)
    return f"{len(whole)} {len(octets)} {hashlib.sha256(octets).hexdigest()}".encode()


def scatter(question: bytes) -> list[bytes]:
    """Answer Scatter."""
    return [b"s" * int(size) for size in question.split()]


class Ends:
    """Which calls of Mirror have ended."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}

    def note(self, call: str) -> None:
        """Note an end; in the loop's thread."""
        self._events.setdefault(call, asyncio.Event()).set()

    async def wait(self, call: bytes) -> bytes:
        """Answer Ended."""
        try:
            event = self._events.setdefault(call.decode(), asyncio.Event())
            await asyncio.wait_for(event.wait(), ENDED_SECONDS)
        except TimeoutError:
            return b"goes on"
        return b"ended"
