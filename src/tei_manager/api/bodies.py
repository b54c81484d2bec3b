"""The body of a request: read whole, within its limits, before anything else is looked at.

A client that goes away in the middle of its body has asked for nothing, however whole it looks.
"""

from __future__ import annotations

import asyncio
import contextlib
import re

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tei_manager.api.problems import problem

# The largest body that makes sense is a create request with some dozens of extra arguments.
MAX_BODY = 64 * 1024

# A create request has two levels.
MAX_DEPTH = 16

# Seconds for a whole body: 64 KiB at modem speed.
BODY_SECONDS = 10.0

# Octets and seconds that are read and dropped of a body over the limit, so that its sender gets
# to read the answer instead of a reset.
DISCARDED = 1024 * 1024
DISCARD_SECONDS = 1.0

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class Bodies:
    """ASGI middleware: what it guards gets the body at once, and knows that it is fit to parse.

    Args:
        app: What it guards.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body, then refuse the request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await _read(Headers(scope=scope), receive)
        except _GoneError:
            return
        except TimeoutError:
            sentence = f"The body did not come within {BODY_SECONDS:g} s"
            await _refused(408, "REQUEST_TIMEOUT", sentence)(scope, receive, send)
            return
        except _TooLargeError:
            await _discard(receive)
            sentence = f"A body may have at most {MAX_BODY} bytes"
            await _refused(413, "CONTENT_TOO_LARGE", sentence)(scope, receive, send)
            return
        if refusal := _unfit(body):
            await refusal(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)


class _GoneError(Exception):
    """The client went away."""


class _TooLargeError(Exception):
    """The body is over the limit."""


async def _read(headers: Headers, receive: Receive) -> bytes:
    length = headers.get("content-length", "0")
    if length.isdigit() and int(length) > MAX_BODY:
        raise _TooLargeError
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _GoneError
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            raise _TooLargeError
        if not message.get("more_body", False):
            return bytes(body)


async def _discard(receive: Receive) -> None:
    left = DISCARDED
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


def _unfit(body: bytes) -> Response | None:
    """Return the refusal of a body that is not UTF-8 or nested too deeply, before it is parsed."""
    try:
        body.decode()
    except UnicodeDecodeError:
        return problem(400, "INVALID_JSON", "The body is not UTF-8")
    if b"\0" in body:
        return problem(400, "INVALID_JSON", "The body is not JSON in UTF-8")
    if depth(body) > MAX_DEPTH:
        sentence = f"The body is nested more than {MAX_DEPTH} levels deep"
        return problem(400, "INVALID_JSON", sentence)
    return None


def depth(body: bytes) -> int:
    """Return how deep the brackets outside of strings are nested at most."""
    level = deepest = 0
    for token in _TOKENS.finditer(body):
        first = token[0][:1]
        if first in (b"[", b"{"):
            level += 1
            deepest = max(deepest, level)
        elif first != b'"':
            level -= 1
    return deepest


def _refused(status: int, code: str, sentence: str) -> Response:
    """Return a refusal; the connection ends with it, as the body was not read."""
    return problem(status, code, sentence, {"connection": "close"})


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body once, and then what comes from the client."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
