"""Our multiplexer: one worker by itself, or several that share a socket."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.peers.peer import Peer, core_for, split
from benchmarks.peers.tls import Tls
from benchmarks.processes import START_SECONDS, end, free_port, pin, running
from tei_manager import control
from tei_manager.bench.results import OURS
from tei_manager.mux.acceptor import BACKLOG
from tei_manager.routes import Route, RouteTable

INSTANCE = "bench"
"""The name by which the load's calls are routed to the backend."""


@contextmanager
def ours(
    backend: str, workers: int = 1, tls: Tls | None = None, instance: str = INSTANCE
) -> Iterator[Peer]:
    """Run our multiplexer with metrics on; ``instance`` is the backend's name there.

    Raises:
        FileNotFoundError: TLS is asked for with more than one worker, which is not made here.
    """
    if tls and workers > 1:
        raise FileNotFoundError(f"{OURS} with TLS and {workers} workers")
    alone = workers == 1
    with single(backend, instance, tls) if alone else managed(backend, workers, instance) as peer:
        yield peer


@contextmanager
def single(backend: str, instance: str, tls: Tls | None, *flags: str) -> Iterator[Peer]:
    """Run ``tei-manager mux`` with metrics on, and what other flags are given."""
    port, metrics = free_port(), free_port()
    argv = [
        *(sys.executable, "-m", "tei_manager", "mux"),
        *("--listen", f"127.0.0.1:{port}", "--metrics", f"127.0.0.1:{metrics}"),
        *("--route", f"{instance}={backend}"),
        *(("--tls-cert", str(tls.cert), "--tls-key", str(tls.key)) if tls else ()),
        *flags,
    ]
    with running(argv, port, core_for(1)) as pid:
        yield Peer(OURS, port, (pid,), tls)


@contextmanager
def managed(backend: str, workers: int, *instances: str) -> Iterator[Peer]:
    """Run workers that share one listening socket, as a manager does.

    Args:
        backend: ``HOST:PORT`` of all instances.
        workers: How many.
        instances: Names in the table, which goes to the workers as a manager's does.
    """
    host, port = split(backend)
    routes = [Route(name, host=host, port=port, ordinal=n) for n, name in enumerate(instances)]
    table, core = RouteTable(1, routes), core_for(workers)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=BACKLOG))
        processes = [
            stack.enter_context(_worker(folder / f"{number}.sock", listening, table, core))
            for number in range(workers)
        ]
        pids = tuple(process.pid for process in processes)
        yield Peer(OURS, listening.getsockname()[1], pids)


@contextmanager
def _worker(
    path: Path, listening: socket.socket, table: RouteTable, core: int | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run one worker, entered once it has the table; it keeps it as long as it is connected."""
    descriptor = listening.fileno()
    argv = [sys.executable, "-m", "tei_manager.mux.worker", "--control", str(path)]
    argv += ["--listen-fd", str(descriptor)]
    process = subprocess.Popen(
        argv,
        stderr=subprocess.DEVNULL,  # it tells that its manager, which is this program, has gone
        pass_fds=[descriptor],
        preexec_fn=lambda: pin(core),
    )
    try:
        with _connected(path) as link:
            link.sendall(control.line("table", **json.loads(table.to_json())))
            lines = link.makefile("rb")
            while b'"applied"' not in lines.readline():
                pass  # its hello, and its counters
            yield process
            end(process)
    finally:
        end(process)


def _connected(path: Path) -> socket.socket:
    """Connect to a worker's Unix socket, once it is there."""
    link, deadline = socket.socket(socket.AF_UNIX), time.monotonic() + START_SECONDS
    link.settimeout(START_SECONDS)
    while True:
        try:
            link.connect(str(path))
            return link
        except OSError:
            if time.monotonic() > deadline:
                link.close()
                raise
        time.sleep(0.02)
