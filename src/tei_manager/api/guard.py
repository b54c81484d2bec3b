"""What every request must satisfy before any handler sees it.

A web page that the operator visits can send requests to loopback addresses. So the Host header
must name this API (DNS rebinding), an Origin must be this API's own, and a body must be declared
as JSON, which no HTML form can do; no CORS header is ever sent.
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tei_manager.api.problems import problem

# The largest body that makes sense is a create request with some dozens of extra arguments.
MAX_BODY = 64 * 1024

# Probes of container platforms and scrapers address the API by whatever name they know.
_ANY_HOST = frozenset({"/health", "/metrics"})

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class Guard:
    """ASGI middleware in front of the whole application.

    Args:
        app: What it guards.
        hosts: Host names by which this API may be called besides those of loopback.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self._app = app
        self._hosts = {host.lower().strip("[]") for host in (*_LOOPBACK_NAMES, *hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope, Headers(scope=scope))
        if refusal is not None:
            await refusal(scope, receive, send)
            return
        body = await _body(receive)
        if body is None:
            await _too_large()(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["path"] not in _ANY_HOST and not self._known(headers.get("host", "")):
            sentence = "The Host header names another server; set [api] allowed_hosts if it is ours"
            return problem(421, "MISDIRECTED_REQUEST", sentence)
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return None
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            return problem(403, "FORBIDDEN", "Requests from other web sites are refused")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > MAX_BODY:
            return _too_large()
        has_body = length != "0" or "transfer-encoding" in headers
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if has_body and media != "application/json":
            sentence = "A body needs 'Content-Type: application/json'"
            return problem(415, "UNSUPPORTED_MEDIA_TYPE", sentence)
        return None

    def _known(self, host: str) -> bool:
        try:
            return (urlsplit(f"//{host}").hostname or "") in self._hosts
        except ValueError:
            return False


def _too_large() -> Response:
    return problem(413, "CONTENT_TOO_LARGE", f"A body may have at most {MAX_BODY} bytes")


async def _body(receive: Receive) -> bytes | None:
    """Read the whole body; ``None`` if it is over the limit."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body once, and then what comes from the client."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
