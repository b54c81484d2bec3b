"""The floor for any proxy in our event loop: octets from one socket to another, and no more.

It is plain Python on uvloop, as our switch is, opens a connection to the backend for each one that
it takes, and knows nothing of HTTP/2.

    python -m benchmarks.peers.relay PORT BACKEND WORKERS
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvloop

from benchmarks.peers.forking import fork
from benchmarks.peers.peer import Peer, core_for, split
from benchmarks.peers.tls import Tls
from benchmarks.processes import children_of, free_port, running

NAME = "bare relay"


@contextmanager
def relay(backend: str, workers: int = 1, tls: Tls | None = None) -> Iterator[Peer]:
    """Run the relay in so many processes.

    Raises:
        FileNotFoundError: TLS is asked for, of which it knows nothing.
    """
    if tls:
        raise FileNotFoundError(f"{NAME} with TLS")
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.peers.relay", str(port), backend, str(workers)]
    with running(argv, port, core_for(workers)) as pid:
        yield Peer(NAME, port, (pid, *children_of(pid, workers - 1)))


class _End(asyncio.Protocol):
    """One end of a connection; what comes is written to the other end."""

    def __init__(self, other: _End | None = None) -> None:
        self.other = other
        self.transport: asyncio.Transport | None = None
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.early.append(data)
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Client(_End):
    """The end that a client opened; it opens the other one."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__()
        self._address = address

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        loop = asyncio.get_running_loop()
        _, self.other = await loop.create_connection(lambda: _End(self), *self._address)
        assert self.other.transport is not None
        self.other.transport.writelines(self.early)


async def _main(listening: socket.socket, address: tuple[str, int]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Client(address), sock=listening)
    async with server:
        await server.serve_forever()


def main(port: str, backend: str, workers: str) -> None:
    """Relay until the process is ended."""
    listening = socket.create_server(("127.0.0.1", int(port)), backlog=1024)
    fork(int(workers))
    uvloop.run(_main(listening, split(backend)))


if __name__ == "__main__":
    main(*sys.argv[1:])
