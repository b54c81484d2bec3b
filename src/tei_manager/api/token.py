"""The bearer token of ``[api] token_file``: who has it may use the API."""

from __future__ import annotations

import hashlib
import logging

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tei_manager.api.problems import problem
from tei_manager.errors import LaunchFailed
from tei_manager.tokens import TokenFile, bearer, is_known

log = logging.getLogger(__name__)

# Whether it is alive, and how it is used: neither says what runs here.
_OPEN = frozenset({"/health", "/docs", "/openapi.json"})
_OPEN_PREFIX = "/static-offline-docs/"


class Authorization:
    """ASGI middleware that lets in whoever has a token.

    Args:
        app: What it guards.
        file: Where the tokens are.
    """

    def __init__(self, app: ASGIApp, file: TokenFile) -> None:
        self._app = app
        self._file = file

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request or pass it on, with the token's fingerprint for the audit."""
        path = scope.get("path", "")
        if scope["type"] != "http" or path in _OPEN or path.startswith(_OPEN_PREFIX):
            await self._app(scope, receive, send)
            return
        try:
            tokens = self._file.tokens()
        except LaunchFailed as error:
            log.error("%s; nobody gets in until it is mended", error)
            sentence = "The token file of this API cannot be used; the manager's log says why"
            await problem(503, "TOKEN_FILE_UNUSABLE", sentence)(scope, receive, send)
            return
        token = bearer(Headers(scope=scope).get("authorization", "").encode("latin-1"))
        if is_known(token, tokens):
            scope["tei_manager.token"] = hashlib.sha256(token).hexdigest()[:8]
            await self._app(scope, receive, send)
            return
        sentence = "The token is not one of [api] token_file" if token else (
            "Send 'Authorization: Bearer TOKEN' with a token of [api] token_file"
        )  # fmt: skip
        headers = {"www-authenticate": "Bearer"}
        await problem(401, "UNAUTHENTICATED", sentence, headers)(scope, receive, send)
