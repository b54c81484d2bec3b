"""The bearer token of ``[api] token_file``: who has it may use the API."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import stat
from pathlib import Path

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from tei_manager.api.problems import problem
from tei_manager.errors import LaunchFailed

log = logging.getLogger(__name__)

# Shorter ones can be guessed over the network within days.
MIN_LENGTH = 16

# Whether it is alive, and how it is used: neither says what runs here.
_OPEN = frozenset({"/health", "/docs", "/openapi.json"})
_OPEN_PREFIX = "/static-offline-docs/"


class TokenFile:
    """The tokens in a file of mode 0600, one on each line, read anew when the file changes.

    So a token is replaced without a gap: write the new one below the old one, hand it out, and
    remove the old one.

    Args:
        path: Of the file; it may be a link to one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._tokens: tuple[bytes, ...] = ()

    def tokens(self) -> tuple[bytes, ...]:
        """Return the tokens that are good now.

        Raises:
            LaunchFailed: The file cannot be used; the sentence says why.
        """
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                stamp = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_mode)
                if stamp != self._stamp:
                    self._tokens = self._parsed(found.st_mode, file.read())
                    self._stamp = stamp
        except OSError as error:
            raise self._unusable(f"cannot be read: {error.strerror}; check its path") from error
        return self._tokens

    def _parsed(self, mode: int, text: bytes) -> tuple[bytes, ...]:
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise self._unusable(f"can be used by others; run: chmod 600 {self._path}")
        tokens = tuple(line for line in map(bytes.strip, text.splitlines()) if line)
        if not tokens or min(map(len, tokens)) < MIN_LENGTH:
            raise self._unusable(f"needs a token of {MIN_LENGTH} characters or more on each line")
        return tokens

    def _unusable(self, reason: str) -> LaunchFailed:
        return LaunchFailed(f"[api] token_file {self._path} {reason}")


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
        token = _bearer(Headers(scope=scope))
        if _known(token, tokens):
            scope["tei_manager.token"] = hashlib.sha256(token).hexdigest()[:8]
            await self._app(scope, receive, send)
            return
        sentence = "The token is not one of [api] token_file" if token else (
            "Send 'Authorization: Bearer TOKEN' with a token of [api] token_file"
        )  # fmt: skip
        headers = {"www-authenticate": "Bearer"}
        await problem(401, "UNAUTHENTICATED", sentence, headers)(scope, receive, send)


def _bearer(headers: Headers) -> bytes:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _known(token: bytes, tokens: tuple[bytes, ...]) -> bool:
    """Compare with every token, each in the same time, so that the time tells nothing."""
    return sum(hmac.compare_digest(token, known) for known in tokens) > 0
