"""One line in the log for each request that would change something: who, what, with what result."""

from __future__ import annotations

import logging
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

_READING = ("GET", "HEAD", "OPTIONS")

# A caller's own text must not make a line as long as the caller likes.
_LONGEST = 300


class Audit:
    """ASGI middleware around everything, so that refusals are seen, too.

    Args:
        app: What is watched.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and write its line."""
        if scope["type"] != "http" or scope["method"] in _READING:
            await self._app(scope, receive, send)
            return
        answer: dict[str, Any] = {}

        async def watching(message: Message) -> None:
            if message["type"] == "http.response.start":
                answer.update(message)
            await send(message)

        try:
            await self._app(scope, receive, watching)
        finally:
            _write(scope, answer)


def _write(scope: Scope, answer: dict[str, Any]) -> None:
    status = answer.get("status")
    host, port = scope.get("client") or ("unknown", 0)
    token = scope.get("tei_manager.token", "none")
    query = scope["query_string"].decode("latin-1")
    target = f"{scope['path']}?{query}" if query else scope["path"]
    made = dict(answer.get("headers", ())).get(b"location", b"").decode("latin-1")
    log.log(
        logging.WARNING if status in (401, 403, 421) else logging.INFO,
        "Audit: %s %s -> %s (client %s:%d, token %s)",
        _plain(scope["method"]), _plain(target),
        f"{status} {made}".rstrip() if status else "no answer", host, port, token,
    )  # fmt: skip


def _plain(text: str) -> str:
    """Return a caller's text with everything escaped that could forge a line of the log."""
    return text[:_LONGEST].encode("unicode_escape").decode("ascii")
