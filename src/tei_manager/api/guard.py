"""Who may send a request at all, decided before any handler sees it.

A web page that the operator visits can send requests to loopback addresses. So the Host header
must name this API (DNS rebinding), and what changes something must not come from another site:
its Origin is this API's own or one that was allowed, and a browser's Sec-Fetch-Site says so, too.
Programs send neither header. A body must be declared as JSON, which no HTML form can do.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tei_manager.api.problems import problem

# Browsers send some twenty, proxies add a few.
MAX_HEADERS = 50

# Octets of all of them together, as in the common servers; h11 bounds only what comes in pieces.
MAX_HEADER_OCTETS = 16 * 1024

# Probes of container platforms and scrapers address the API by whatever name they know.
_ANY_HOST = frozenset({"/health", "/metrics"})

_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_SAFE = ("GET", "HEAD", "OPTIONS")
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([0-9a-z._-]+))(?::[0-9]{1,5})?")


class Guard:
    """ASGI middleware in front of the whole application.

    Args:
        app: What it guards.
        hosts: Host names by which this API may be called besides those of loopback.
        origins: Web sites whose pages may use it besides its own.
    """

    def __init__(
        self, app: ASGIApp, hosts: Collection[str] = (), origins: Collection[str] = ()
    ) -> None:
        self._app = app
        self._hosts = {host.lower().strip("[]") for host in (*_LOOPBACK_NAMES, *hosts)}
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on; HEAD goes on as GET, whose body the server drops."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if (refusal := self._refusal(scope, Headers(scope=scope))) is not None:
            await refusal(scope, receive, send)
            return
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "tei_manager.head": True}
        await self._app(scope, receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> Response | None:
        octets = sum(len(name) + len(value) for name, value in headers.raw)
        if len(headers) > MAX_HEADERS or octets > MAX_HEADER_OCTETS:
            sentence = f"Send at most {MAX_HEADERS} headers, {MAX_HEADER_OCTETS} bytes in all"
            return problem(431, "HEADERS_TOO_LARGE", sentence)
        if scope["path"] not in _ANY_HOST and not self._known(headers.get("host", "")):
            sentence = "The Host header names another server; set [api] allowed_hosts if it is ours"
            return problem(421, "MISDIRECTED_REQUEST", sentence)
        if self._foreign(scope["method"], headers):
            sentence = "Requests from other web sites are refused; see [api] cors_origins"
            return problem(403, "FORBIDDEN", sentence)
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] not in _SAFE and _has_body(headers) and media != "application/json":
            sentence = "A body needs 'Content-Type: application/json'"
            return problem(415, "UNSUPPORTED_MEDIA_TYPE", sentence)
        return None

    def _known(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        return found is not None and (found[1] or found[2]) in self._hosts

    def _foreign(self, method: str, headers: Headers) -> bool:
        """Return whether another site's page wants to change something, or asks if it may."""
        origin = headers.get("origin")
        if method in ("GET", "HEAD") or origin in self._origins:
            return False
        if origin is not None and _netloc(origin) != headers.get("host", "").lower():
            return True
        return headers.get("sec-fetch-site", "none") not in ("none", "same-origin")


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin.lower()).netloc or None
    except ValueError:
        return None


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
