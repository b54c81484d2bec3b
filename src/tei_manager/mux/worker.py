"""One worker process: accepts clients, routes by the table that a manager sends, drains on SIGTERM.

A worker has a control socket on which the manager sends whole route tables, a JSON document a line,
and reads back which version is applied and, once a second, cumulative counters. Without a manager
(`run_standalone`) the table never changes and the metrics are served here.

A worker outlives its manager: while nobody is connected to the control socket it goes on with the
table that it has, and drains after `ORPHAN_SECONDS`.
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
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvloop

from tei_manager import __version__
from tei_manager.errors import LaunchFailed
from tei_manager.mux.acceptor import BACKLOG, Acceptor
from tei_manager.mux.listener import Client
from tei_manager.mux.switch import Options, Switch
from tei_manager.routes import RouteTable
from tei_manager.telemetry import logs
from tei_manager.telemetry.counters import Counters

logger = logging.getLogger(__name__)

GRACE_SECONDS = 30.0
"""How long calls under way may take when a worker drains: the default of stop_timeout_secs."""

ORPHAN_SECONDS = 600.0
"""After so long without a manager a worker drains (design.md 3)."""

REPORT_SECONDS = 1.0
MAX_LINE = 16 << 20
"""Octets of one control line: a table of 10,000 routes has two million."""


LARGEST_PIECE = 2 << 20
"""Octets; a worker may keep twice that in free memory. Large requests cost 16 % less for it."""


class Worker:
    """Serves one listening socket.

    Args:
        options: Limits for calls and connections.
    """

    def __init__(self, options: Options) -> None:
        self._loop = asyncio.get_running_loop()
        self.counters = Counters()
        self.switch = Switch(self._loop, options, self.counters)
        self._draining = asyncio.Event()
        self._has_table = asyncio.Event()
        self._orphan_timer: asyncio.TimerHandle | None = None
        self._managers = 0

    def apply(self, table: RouteTable) -> None:
        """Route by ``table`` from the next call on."""
        self.switch.apply(table)
        self._has_table.set()
        self.counters.retain(table.by_name)

    def drain(self) -> None:
        """Begin to stop: no new connections, no new calls; asking again cuts what is left."""
        if self._draining.is_set():
            self.switch.quiet.set()
        self._draining.set()
        self._has_table.set()

    async def serve(self, listening: socket.socket) -> None:
        """Serve until `drain` is called and the calls under way are over.

        Clients are accepted once there is a table: before that every name would be unknown.

        Ownership:
            ``listening`` is closed at the end; a copy of it in another process stays open.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self.drain)
        await self._has_table.wait()
        acceptor = Acceptor(self.switch, listening)
        acceptor.start()
        _settle_memory()
        await self._draining.wait()
        acceptor.close()
        await self._finish_calls()
        self.switch.close()

    async def control(self, path: Path) -> asyncio.Server:
        """Listen for a manager on a Unix socket; the caller closes what is returned."""
        self._await_manager()
        return await asyncio.start_unix_server(self._serve_manager, path, limit=MAX_LINE)

    async def _finish_calls(self) -> None:
        self.switch.health.drain()
        for endpoint in list(self.switch.endpoints):
            if isinstance(endpoint, Client):
                endpoint.connection.drain()
        self.switch.flush()
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_SECONDS):
                await self.switch.quiet.wait()

    async def _serve_manager(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._managers += 1
        if self._orphan_timer is not None:
            self._orphan_timer.cancel()
        _say(writer, {"type": "hello", "pid": os.getpid(), "version": __version__})
        report = asyncio.create_task(self._report(writer))
        try:
            while line := await reader.readline():
                self._obey(line, writer)
        except (OSError, ValueError) as error:
            logger.warning("lost the manager: %s", error)
        finally:
            report.cancel()
            writer.close()
            self._managers -= 1
            self._await_manager()

    def _obey(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        order = json.loads(line)
        if order.get("type") == "table":
            table = RouteTable.from_json(line)
            self.apply(table)
            _say(writer, {"type": "applied", "version": table.version})
        elif order.get("type") == "drain":
            self.drain()
        else:
            logger.warning("the manager said what this worker does not know: %r", order)

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        while True:
            _say(writer, {"type": "counters", "counters": self.counters.to_json()})
            await writer.drain()
            await asyncio.sleep(REPORT_SECONDS)

    def _await_manager(self) -> None:
        if not self._managers and not self._draining.is_set():
            self._orphan_timer = self._loop.call_later(ORPHAN_SECONDS, self.drain)


def _say(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    writer.write(json.dumps(document, separators=(",", ":")).encode() + b"\n")


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


def run_standalone(
    listen: tuple[str, int],
    table: RouteTable,
    options: dict[str, Any],
    metrics: tuple[str, int] | None,
) -> None:
    """Serve a route table that never changes, until SIGTERM or SIGINT.

    Args:
        listen: Host and port for clients; port 0 takes a free one, which is printed.
        table: Where calls go.
        options: Fields of `Options`.
        metrics: Host and port for Prometheus, if any.

    Raises:
        LaunchFailed: An address cannot be bound.
    """
    listening = _bind(listen)

    async def main() -> None:
        worker = Worker(Options(**options))
        worker.apply(table)
        if metrics is not None:
            _serve_metrics(worker.counters, metrics)
        host, port = listening.getsockname()[:2]
        sys.stdout.write(f"multiplexer listens on {host}:{port}, {table!r}\n")
        sys.stdout.flush()
        await worker.serve(listening)

    _run(main)


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


def main() -> None:
    """Run a worker for a manager; the manager's `manager.workers` knows the arguments."""
    parser = argparse.ArgumentParser(prog="tei_manager.mux.worker", description=__doc__)
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--config", type=json.loads, default={})
    arguments = parser.parse_args()
    logs.configure()
    listening = socket.socket(fileno=arguments.listen_fd)
    arguments.control.unlink(missing_ok=True)

    async def serve() -> None:
        worker = Worker(Options(**arguments.config))
        control = await worker.control(arguments.control)
        await worker.serve(listening)
        control.close()

    _run(serve)


if __name__ == "__main__":
    main()
