"""One worker process: accepts clients, routes by the table that a manager sends, drains on SIGTERM.

A worker has a control socket on which the manager sends whole route tables and reads which one is
in force and what was counted; the words are in the module `control`. Without a manager
(`run_standalone`) the table never changes and the metrics are served here.

A worker outlives its manager: while nobody is connected to the control socket (`managers`) it goes
on with the table that it has, and drains in the end. A manager that comes back gets the listening
socket with the hello. A worker that drains cannot be taken over: its control socket goes first.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from tei_manager.errors import CertificateRefused, LaunchFailed
from tei_manager.mux.acceptor import BACKLOG, Acceptor
from tei_manager.mux.files import kept_fresh
from tei_manager.mux.handshake import PROTOCOL
from tei_manager.mux.listener import Client
from tei_manager.mux.managers import Managers
from tei_manager.mux.switch import Options, Switch
from tei_manager.routes import RouteTable
from tei_manager.telemetry import logs
from tei_manager.telemetry.counters import Counters
from tei_manager.tls import Certificates, Tls
from tei_manager.tokens import TokenFile, Tokens
from tei_manager.unix_socket import UnixAddress

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""How long calls under way may take when a worker drains: the default of stop_timeout_secs."""

LARGEST_PIECE = 2 << 20
"""Octets; a worker may keep twice that in free memory. Large requests cost 16 % less for it."""


class Worker:
    """Serves a listening socket, or several.

    Args:
        options: Limits for calls and connections.
        certificates: For TLS; ``None`` for none.
        tokens: Calls need one of these; ``None`` if they need none.
    """

    def __init__(
        self,
        options: Options,
        certificates: Certificates | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._certificates, self._tokens = certificates, tokens
        self.counters = Counters(certificates)
        self.switch = Switch(self._loop, options, self.counters)
        self._draining = asyncio.Event()
        self._has_table = asyncio.Event()
        self.managers = Managers(self)
        self.switch.backends.on_emptied = self.managers.tell_under_way

    def apply(self, table: RouteTable) -> None:
        """Route by ``table`` from the next call on."""
        self.switch.apply(table)
        self._has_table.set()
        self.counters.retain(table.by_name)

    def drain(self) -> None:
        """Begin to stop: no new connections, no new calls; asking again cuts what is left."""
        if self._draining.is_set():
            self.switch.quiet.set()
            return
        self._draining.set()
        self._has_table.set()
        self.managers.hide()

    async def serve(self, *listening: socket.socket) -> None:
        """Serve until `drain` is called and the calls under way are over.

        Clients are accepted once there is a table: before that every name would be unknown.

        Ownership:
            ``listening`` is closed at the end; a copy of it in another process stays open.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.drain)
        await self._has_table.wait()
        acceptor = Acceptor(self.switch, listening, self._certificates, self._tokens)
        acceptor.start()
        _settle_memory()
        async with kept_fresh(self._certificates, self._tokens):
            await self._draining.wait()
        await acceptor.close()
        await self._finish_calls()
        await self.managers.say_goodbye()
        self.switch.close()

    async def listen_for_managers(
        self, path: Path, listening: Sequence[socket.socket], options: dict[str, Any]
    ) -> None:
        """Listen on a Unix socket for a manager, until `drain`.

        Args:
            path: Of the socket.
            listening: What `serve` has or will get, for a manager that takes over.
            options: What a manager is told that this worker was started with.
        """
        await self.managers.listen(path, listening, options)

    async def _finish_calls(self) -> None:
        self.switch.health.drain()
        for endpoint in list(self.switch.endpoints):
            if isinstance(endpoint, Client):
                endpoint.connection.drain()
        self.switch.flush()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.switch.quiet.wait()


def _settle_memory() -> None:
    """Take what start-up made out of the collector's sight, and let it run less often.

    A call leaves no cycles, so the collector has nothing to find; at its default threshold it
    would look every few dozen calls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    # The C library gives free memory back to the system only above twice the size of the largest
    # piece that it ever unmapped: without this one, the heap shrinks and grows with every chunk.
    bytes(LARGEST_PIECE)


def _run(main: Callable[[], Awaitable[None]]) -> None:
    async def entry() -> None:
        await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(entry())


def _worker(options: dict[str, Any]) -> Worker:
    """Return a worker with these limits, and with TLS and tokens if they have them."""
    limits = {name: value for name, value in options.items() if name not in ("tls", "token_file")}
    tls, file = options.get("tls"), options.get("token_file")
    certificates = Certificates(Tls.from_json(tls), PROTOCOL) if tls else None
    tokens = Tokens(TokenFile(Path(file))) if file else None
    return Worker(Options(**limits), certificates, tokens)


def run_standalone(
    listen: tuple[str, int],
    table: RouteTable,
    options: dict[str, Any],
    metrics: tuple[str, int] | None,
    unix: UnixAddress | None = None,
) -> None:
    """Serve a route table that never changes, until SIGTERM or SIGINT.

    Args:
        listen: Host and port for clients; port 0 takes a free one, which is printed.
        table: Where calls go.
        options: Fields of `Options`; under ``tls`` those of `Tls`, if there shall be TLS; under
            ``token_file`` the path of a `TokenFile`, if calls need a token.
        metrics: Host and port for Prometheus, if any.
        unix: Where to listen besides, if anywhere.

    Raises:
        LaunchFailed: An address cannot be bound, or the token file cannot be used.
        CertificateRefused: The files for TLS cannot be used.
    """
    listening = _bind(listen)
    beside = [unix.bind(BACKLOG)] if unix else []

    async def main() -> None:
        worker = _worker(options)
        worker.apply(table)
        if metrics is not None:
            _serve_metrics(worker.counters, metrics)
        host, port = listening.getsockname()[:2]
        sys.stdout.write(f"multiplexer listens on {host}:{port}, {table!r}\n")
        sys.stdout.flush()
        await worker.serve(listening, *beside)

    try:
        _run(main)
    finally:
        if unix:
            unix.path.unlink(missing_ok=True)


def _bind(address: tuple[str, int]) -> socket.socket:
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG)
    except OSError as error:
        where = f"{address[0]}:{address[1]}"
        reason = os.strerror(error.errno or 0)
        raise LaunchFailed(f"cannot listen on {where}: {reason}; choose another") from None


def _serve_metrics(counters: Counters, address: tuple[str, int]) -> None:
    from tei_manager.telemetry.exposition import serve_worker

    serve_worker(counters, *address)


def become_standalone(
    listen: tuple[str, int],
    table: RouteTable,
    options: dict[str, Any],
    metrics: tuple[str, int] | None,
    unix: UnixAddress | None = None,
) -> NoReturn:
    """Do as `run_standalone`, in a fresh image of this process.

    What a command line has loaded by then, and would keep, is half as much again as all that a
    worker needs (13 of 40 MB). An argument may have 128 KiB on Linux, which is a thousand routes,
    so what is given goes by a file without a name.
    """
    given = {"listen": listen, "options": options, "metrics": metrics, "table": table.to_json(),
             "unix": [str(unix.path), unix.mode] if unix else None}  # fmt: skip
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
        file.write(json.dumps(given))
        file.flush()
        kept = os.dup(file.fileno())
    os.set_inheritable(kept, True)
    command = [sys.executable, "-m", "tei_manager.mux.worker", "--standalone", str(kept)]
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - a list of ours, no shell


def _given(descriptor: str) -> dict[str, Any]:
    """Read what `become_standalone` wrote."""
    with os.fdopen(int(descriptor), encoding="utf-8") as file:
        file.seek(0)
        return dict(json.load(file))


def _run_given(given: dict[str, Any]) -> None:
    metrics = tuple(given["metrics"]) if given["metrics"] else None
    table = RouteTable.from_json(given["table"])
    path, mode = given["unix"] or ("", 0)
    unix = UnixAddress(Path(path), mode) if path else None
    try:
        run_standalone(tuple(given["listen"]), table, given["options"], metrics, unix)
    except (LaunchFailed, CertificateRefused) as error:
        sys.exit(f"Error: {error}")


def main() -> None:
    """Run a worker: `manager.workers` and `become_standalone` know the arguments."""
    parser = argparse.ArgumentParser(prog="tei_manager.mux.worker", description=__doc__)
    parser.add_argument("--standalone", type=_given)
    parser.add_argument("--listen-fd", type=int, action="append")
    parser.add_argument("--control", type=Path)
    parser.add_argument("--config", type=json.loads, default={})
    arguments = parser.parse_args()
    if arguments.standalone:
        _run_given(arguments.standalone)
    else:
        _run_managed(arguments)


def _run_managed(arguments: argparse.Namespace) -> None:
    logs.configure()
    listening = [socket.socket(fileno=number) for number in arguments.listen_fd]
    arguments.control.unlink(missing_ok=True)

    async def serve() -> None:
        worker = _worker(arguments.config)
        await worker.listen_for_managers(arguments.control, listening, arguments.config)
        await worker.serve(*listening)

    try:
        _run(serve)
    except (LaunchFailed, CertificateRefused) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main()
