"""Bearer tokens: the file that they stand in, and those of a port that are in force.

Whoever has one of them may come in. Nothing of a token is ever shown.
"""

from __future__ import annotations

import hmac
import logging
import os
import stat
from pathlib import Path

from tei_manager.errors import LaunchFailed
from tei_manager.watched import Watched

logger = logging.getLogger(__name__)

MIN_LENGTH = 16
"""Shorter ones can be guessed over the network within days."""

MAX_LENGTH = 500
"""Of a token for the multiplexer, which keeps that much of a call's headers beside its metadata."""


class TokenFile:
    """The tokens in a file of mode 0600, one on each line, read anew when the file changes.

    So a token is replaced without a gap: write the new one below the old one, hand it out, and
    remove the old one.

    Args:
        path: Of the file; it may be a link to one.
        name: What the sentences of its errors call it.
    """

    def __init__(self, path: Path, name: str = "Token file") -> None:
        self._path = path
        self._name = name
        self._stamp: tuple[int, ...] = ()
        self._tokens: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        return f"{self._name} {self._path}"

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
        return LaunchFailed(f"{self} {reason}")


class Tokens(Watched):
    """The tokens of a port, taken up anew when their file changes.

    A file that cannot be used changes nothing: those that were good stay so, as calls must not
    fail for a slip in a file. To shut everybody out, put a new token in place of the old one.

    Args:
        file: Where they are.

    Raises:
        LaunchFailed: The file cannot be used now.
    """

    def __init__(self, file: TokenFile) -> None:
        self._file = file
        super().__init__()
        self._refused = ""
        self._good = self._read()

    def __repr__(self) -> str:
        return f"<Tokens: {len(self._good)} in force>"

    def admits(self, authorization: bytes) -> bool:
        """Say whether a call with this value of its ``authorization`` may come in."""
        return is_known(bearer(authorization), self._good)

    def refresh(self) -> None:
        """Take up the file if it has changed; what cannot be used is logged once."""
        try:
            good = self._read()
        except LaunchFailed as error:
            if str(error) != self._refused:
                self._refused = str(error)
                logger.error("The tokens in force stay: %s", error)
            return
        self._refused = ""
        if good != self._good:
            self._good = good
            logger.info("Took up %d tokens", len(good))

    def _read(self) -> tuple[bytes, ...]:
        tokens = self._file.tokens()
        if max(map(len, tokens)) > MAX_LENGTH:
            raise LaunchFailed(
                f"{self._file} has a token above {MAX_LENGTH} characters; shorten it"
            )
        return tokens


def bearer(authorization: bytes) -> bytes:
    """Return the token of an ``authorization`` field, empty if there is none."""
    scheme, _, token = authorization.partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def is_known(token: bytes, tokens: tuple[bytes, ...]) -> bool:
    """Compare with every token, each in the same time, so that the time tells nothing."""
    return sum(hmac.compare_digest(token, known) for known in tokens) > 0
