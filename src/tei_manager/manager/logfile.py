"""The output of one process in one file, opened for appending and kept within a size.

The process writes into the file by itself, so that nothing it prints can block it and nothing
is lost when the manager restarts. Because every write appends, the file can be cut from outside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# TEI writes about 250 bytes for each item that it embeds (landmine L20): some 60,000 items.
MAX_BYTES = 16 * 1024 * 1024

# Of what is read for one answer, so that a caller cannot make the manager hold a whole log.
MAX_READ = 1024 * 1024

_CHUNK = 64 * 1024


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
        return _open_ours(self.path, os.O_APPEND)

    def size(self) -> int:
        """Return the present size in bytes, 0 if there is no file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def keep_within(self, limit: int = MAX_BYTES) -> None:
        """Put a file over ``limit`` bytes aside and begin anew; lines of that moment are lost."""
        if self.size() > limit:
            older = os.fdopen(_open_ours(self._older, os.O_TRUNC), "wb")
            with older, self._reader() as present:
                shutil.copyfileobj(present, older)
            os.truncate(self.path, 0)

    @property
    def _older(self) -> Path:
        return self.path.with_name(self.path.name + ".1")

    def read(self, start: int | None = None, end: int | None = None) -> Lines:
        """Return ``lines[start:end]`` with the meaning that Python gives to it.

        Of a slice over `MAX_READ` bytes only the lines at its end are returned, and the ``start``
        of the result is that of the first of them.
        """
        total = self._count()
        first, last, _ = slice(start, end).indices(total)
        if first >= last:
            return Lines([], first, last, total)
        begin, finish = self._offset(first), self._offset(last)
        if finish - begin <= MAX_READ:
            lines = _split(self._bytes(begin, finish - begin))
        else:
            text = self._bytes(finish - MAX_READ, MAX_READ)
            lines = _split(text[text[:-1].find(b"\n") + 1 :])
        return Lines(lines, last - len(lines), last, total)

    def _count(self) -> int:
        count, rest = 0, b""
        for chunk in self._chunks():
            count += chunk.count(b"\n")
            rest = chunk
        return count + (rest[-1:] not in (b"", b"\n"))

    def _offset(self, line: int) -> int:
        """Return where a line begins: after so many line feeds, or at the end."""
        offset = 0
        for chunk in self._chunks():
            found = chunk.count(b"\n")
            if found >= line:
                at = 0
                for _ in range(line):
                    at = chunk.index(b"\n", at) + 1
                return offset + at
            line -= found
            offset += len(chunk)
        return offset

    def offset_of(self, start: int) -> int:
        """Return the byte offset at which ``lines[start:]`` begins; whole lines only count."""
        whole = sum(chunk.count(b"\n") for chunk in self._chunks())
        return self._offset(slice(start, None).indices(whole)[0])

    def read_from(self, offset: int) -> tuple[str, int]:
        """Return the whole lines after a byte offset, and the offset after them.

        At most `MAX_READ` bytes at a time; a line that is longer comes in pieces.
        """
        if self.size() < offset:  # it was cut
            offset = 0
        text = self._bytes(offset, MAX_READ)
        whole = text if len(text) == MAX_READ and b"\n" not in text else (
            text[: text.rfind(b"\n") + 1]
        )  # fmt: skip
        return whole.decode("utf-8", "replace"), offset + len(whole)

    def tail(self, count: int, window: int = 8192) -> list[str]:
        """Return the last lines, at most ``count`` and as far as they fit into the window."""
        return _split(self._bytes(max(0, self.size() - window), window))[-count:]

    def delete(self) -> None:
        """Remove the file and its older half."""
        self.path.unlink(missing_ok=True)
        self._older.unlink(missing_ok=True)

    def _bytes(self, offset: int, count: int) -> bytes:
        try:
            with self._reader() as file:
                file.seek(offset)
                return file.read(count)
        except FileNotFoundError:
            return b""

    def _chunks(self) -> Iterator[bytes]:
        """Yield the whole file, piece by piece; nothing if there is none."""
        with contextlib.suppress(FileNotFoundError), self._reader() as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def _reader(self) -> BinaryIO:
        """Open the file; a symbolic link in its place is refused."""
        descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return os.fdopen(descriptor, "rb")


def _open_ours(path: Path, how: int) -> int:
    """Open a file for writing that nobody else may read; a symbolic link is refused."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags | how, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def _split(text: bytes) -> list[str]:
    """Return the lines, of which only a line feed makes one: JSON may hold other separators."""
    lines = text.decode("utf-8", "replace").split("\n")
    return lines if lines[-1] else lines[:-1]
