"""The output of one process in one file, opened for appending and kept within a size.

The process writes into the file by itself, so that nothing it prints can block it and nothing
is lost when the manager restarts. Because every write appends, the file can be cut from outside.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

# TEI writes about 250 bytes for each item that it embeds (landmine L20): some 60,000 items.
MAX_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Lines:
    """A slice of a log: the lines, where they begin and end, and how many there are in all."""

    lines: list[str]
    start: int
    end: int
    total: int


class LogFile:
    """One log, at ``path``; the older half of it, once it was cut, at ``path`` + ``.1``.

    Ownership:
        `open` gives the caller a descriptor to close; the other methods keep nothing open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> int:
        """Return a descriptor that appends; a symbolic link in the file's place is refused."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path, flags, 0o600)

    def size(self) -> int:
        """Return the present size in bytes, 0 if there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def keep_within(self, limit: int = MAX_BYTES) -> None:
        """Put a file over ``limit`` bytes aside and begin anew; lines of that moment are lost."""
        if self.size() > limit:
            shutil.copyfile(self.path, self._older)
            os.truncate(self.path, 0)

    @property
    def _older(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def read(self, start: int | None = None, end: int | None = None) -> Lines:
        """Return ``lines[start:end]`` with the meaning that Python gives to it."""
        lines = _split(self._bytes(0))
        first, last, _ = slice(start, end).indices(len(lines))
        return Lines(lines[first:last], first, last, len(lines))

    def offset_of(self, start: int) -> int:
        """Return the byte offset at which ``lines[start:]`` begins; whole lines only count."""
        lines = self._bytes(0).split(b"\n")[:-1]
        first = slice(start, None).indices(len(lines))[0]
        return sum(len(line) + 1 for line in lines[:first])

    def read_from(self, offset: int) -> tuple[str, int]:
        """Return the whole lines after a byte offset, and the offset after them."""
        if self.size() < offset:  # it was cut
            offset = 0
        text = self._bytes(offset)
        whole = text[: text.rfind(b"\n") + 1]
        return whole.decode("utf-8", "replace"), offset + len(whole)

    def tail(self, count: int, window: int = 8192) -> list[str]:
        """Return the last lines, at most ``count`` and as far as they fit into the window."""
        return _split(self._bytes(max(0, self.size() - window)))[-count:]

    def delete(self) -> None:
        """Remove the file and its older half."""
        self.path.unlink(missing_ok=True)
        self._older.unlink(missing_ok=True)

    def _bytes(self, offset: int) -> bytes:
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                return file.read(2 * MAX_BYTES)
        except FileNotFoundError:
            return b""


def _split(text: bytes) -> list[str]:
    """Return the lines, of which only a line feed makes one: JSON may hold other separators."""
    lines = text.decode("utf-8", "replace").split("\n")
    return lines if lines[-1] else lines[:-1]
