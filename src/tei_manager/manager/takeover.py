"""What an earlier manager left on 9001: workers that serve, and the listening socket they share.

A manager that was killed, or told to leave, takes nothing from callers: workers go on by
themselves. The next manager asks those that it finds for the listening socket and goes on with
them. A worker that cannot stay (other version, other limits, other address, one too many) serves
until others do, and drains then; all have the same socket, so no caller finds a closed door.

The Unix socket beside the port, where there is one, is taken over in the same way.

Only if the address has changed the socket is a new one. It is bound before anything is taken from
the old workers, unless they hold the very port, as with another host and the same number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tei_manager import __version__
from tei_manager.errors import LaunchFailed
from tei_manager.manager.link import Link
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.worker import WorkerProcess
from tei_manager.unix_socket import UnixAddress

logger = logging.getLogger(__name__)

# Linux cuts it to net.core.somaxconn, 4096 by default; the accept queue outlives a dead worker.
_BACKLOG = 1024

# Within it a worker that is asked to drain has closed its listening socket; and between two looks.
_CLOSE_LIMIT, _CLOSE_PAUSE = 2.0, 0.05


@dataclass(frozen=True, slots=True)
class Takeover:
    """What a manager begins with.

    Args:
        listener: Bound and listening; the holder's to close.
        workers: Those that stay.
        outdated: Those that have to go once others serve.
        unix: A Unix socket beside it, if one is wanted; the holder's to close, too.
    """

    listener: socket.socket
    workers: tuple[WorkerProcess, ...] = ()
    outdated: tuple[WorkerProcess, ...] = ()
    unix: socket.socket | None = None

    @property
    def listeners(self) -> tuple[socket.socket, ...]:
        """All sockets that clients come by, the port's first."""
        return (self.listener, self.unix) if self.unix else (self.listener,)

    @property
    def found(self) -> tuple[WorkerProcess, ...]:
        """All workers that an earlier manager left."""
        return self.workers + self.outdated


def log_of(path: Path, log_dir: Path) -> LogFile:
    """Return the log of the worker whose control socket is at a path."""
    return LogFile(log_dir / f"mux-{path.stem}.log")


async def take_over(
    host: str,
    port: int,
    options: dict[str, Any],
    count: int,
    run_dir: Path,
    log_dir: Path,
    unix: UnixAddress | None = None,
) -> Takeover:
    """Find what an earlier manager left, and the listening sockets, or bind new ones.

    Args:
        host: Where clients connect.
        port: There; 0 takes a free one, or that which is found.
        options: The limits that a worker must have to stay.
        count: How many may stay.
        run_dir: Where the control sockets are.
        log_dir: Where the workers' logs are.
        unix: Where clients of this machine connect besides, if anywhere.

    Raises:
        LaunchFailed: An address cannot be listened on; workers that were found go on.

    Ownership:
        Listeners and workers are the caller's.
    """
    knocks = (WorkerProcess.find(path, log_of(path, log_dir)) for path in _sockets(run_dir))
    answers = await asyncio.gather(*knocks)
    found = [worker for worker in answers if worker is not None]
    wanted = _resolve(host, port)
    serving = [worker for worker in found if _listens_on(worker, wanted)]
    kept = _link(serving[0]).keep_listener() if serving else None
    beside = _kept_unix(found, unix)
    for worker in found:
        _link(worker).drop_listener()
    path = unix.path if beside is not None and unix else None
    current = [
        worker for worker in serving
        if _is_current(worker, options) and _link(worker).unix_path == path
    ] if bool(beside) == bool(unix) else []  # fmt: skip
    listener, beside = await _bind_missing(found, (host, port), kept, unix, beside)
    _remove_other_files(found, unix)
    stay = current[:count]
    for worker in found:
        verb = "stays" if worker in stay else "has to go, as it differs from what is wanted"
        logger.info("Worker %d of an earlier manager %s", worker.process.pid, verb)
    return Takeover(listener, tuple(stay), tuple(w for w in found if w not in stay), beside)


def _kept_unix(found: list[WorkerProcess], unix: UnixAddress | None) -> socket.socket | None:
    """Take over the Unix socket that is wanted, if one of the workers has it."""
    for worker in found:
        if unix is not None and _link(worker).unix_path == unix.path and unix.adopt():
            return _link(worker).keep_unix()
    return None


async def _bind_missing(
    found: list[WorkerProcess],
    address: tuple[str, int],
    listener: socket.socket | None,
    unix: UnixAddress | None,
    beside: socket.socket | None,
) -> tuple[socket.socket, socket.socket | None]:
    """Bind what could not be taken over; where that fails the workers that were found go on."""
    try:
        listener = listener or await _bind_beside(found, *address)
        listener.setblocking(False)
        return listener, beside or (unix.bind(_BACKLOG) if unix else None)
    except LaunchFailed:
        for each in (listener, beside):
            if each is not None:
                each.close()
        await asyncio.gather(*(worker.release() for worker in found))
        raise


def _remove_other_files(found: list[WorkerProcess], unix: UnixAddress | None) -> None:
    """Remove the files of Unix sockets that are not wanted any more."""
    for path in {_link(worker).unix_path for worker in found}:
        if path is not None and (unix is None or path != unix.path):
            path.unlink(missing_ok=True)


def _sockets(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("worker-*.sock"))


def _link(worker: WorkerProcess) -> Link:
    assert worker.link is not None, "one that was found has said hello"
    return worker.link


def _listens_on(worker: WorkerProcess, wanted: tuple[str, int]) -> bool:
    host, port = _link(worker).address
    return host == wanted[0] and (port == wanted[1] or (wanted[1] == 0 and port > 0))


def _is_current(worker: WorkerProcess, options: dict[str, Any]) -> bool:
    link = _link(worker)
    return link.understood and (link.hello.version, link.hello.options) == (__version__, options)


def _resolve(host: str, port: int) -> tuple[str, int]:
    """Return the address that `_bind` would listen on."""
    passive = socket.AI_PASSIVE
    try:
        answers = socket.getaddrinfo(
            host.strip("[]") or None, port, _family(host), socket.SOCK_STREAM, 0, passive
        )
    except OSError:
        return host, port  # `_bind` says it better
    address = answers[0][4]
    return str(address[0]), int(address[1])


async def _bind_beside(found: list[WorkerProcess], host: str, port: int) -> socket.socket:
    """Bind while the workers that were found serve elsewhere; those on the very port drain."""
    holders = [worker for worker in found if _link(worker).address[1] == port]
    for worker in holders:
        worker.process.terminate()
    deadline = time.monotonic() + (_CLOSE_LIMIT if holders else 0)
    while True:
        try:
            return _bind(host, port)
        except LaunchFailed:
            if time.monotonic() >= deadline:
                raise
        await asyncio.sleep(_CLOSE_PAUSE)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _bind(host: str, port: int) -> socket.socket:
    """Bind the multiplexer's port once, without SO_REUSEPORT: a second manager must fail here."""
    address = (host.strip("[]"), port)
    try:
        listener = socket.create_server(address, family=_family(host), backlog=_BACKLOG)
    except OSError as error:
        sentence = f"Cannot listen on {host}:{port} ({os.strerror(error.errno or 0)})"
        raise LaunchFailed(
            f"{sentence}; stop what holds it or set [grpc] multiplexer_port"
        ) from error
    return listener
