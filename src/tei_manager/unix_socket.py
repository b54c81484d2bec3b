"""A Unix socket that is listened on, and its file: who may connect is who may write to the file.

The file outlives its socket. One that nobody listens at is a leftover and replaced; whatever else
stands at the path is left alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from tei_manager.errors import LaunchFailed


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """Where a Unix socket is, or shall be.

    Args:
        path: Of its file, absolute.
        mode: Of its file.
    """

    path: Path
    mode: int = 0o600

    @classmethod
    def of(cls, path: Path | None, mode: str) -> UnixAddress | None:
        """Return the address that settings ask for, the mode in octal digits; ``None`` for none."""
        return cls(path.absolute(), int(mode, 8)) if path is not None else None

    def bind(self, backlog: int) -> socket.socket:
        """Return a socket that listens there.

        Raises:
            LaunchFailed: There is something else, or the file cannot be made.

        Ownership:
            The socket is the caller's to close, and its file to `remove`.
        """
        listener = socket.socket(socket.AF_UNIX)
        try:
            self._clear()
            listener.bind(os.fspath(self.path))
            self.path.chmod(self.mode)  # in time: nobody can connect before listen()
            listener.listen(backlog)
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
            sentence = f"Cannot listen on {self.path} ({reason})"
            raise LaunchFailed(f"{sentence}; choose another path for the Unix socket") from None
        return listener

    def adopt(self) -> bool:
        """Say whether clients still find a socket here; one that stays gets the mode."""
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(self.path.lstat().st_mode):
                self.path.chmod(self.mode)
                return True
        return False

    def _clear(self) -> None:
        """Remove what an earlier socket left.

        Raises:
            OSError: Something else is there, or somebody listens.
        """
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(self.path.lstat().st_mode):
                raise FileExistsError(0, "what is there is no socket")
            if _is_listened_at(self.path):
                raise FileExistsError(0, "another process listens there")
            self.path.unlink()


def path_of(listener: socket.socket) -> Path | None:
    """Return the file of a socket; ``None`` if it is not a Unix socket."""
    return Path(listener.getsockname()) if listener.family == socket.AF_UNIX else None


def remove(listener: socket.socket) -> None:
    """Remove the file of a Unix socket; of another one there is none."""
    if (path := path_of(listener)) is not None:
        path.unlink(missing_ok=True)


def _is_listened_at(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as knock:
        try:
            knock.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        return True
