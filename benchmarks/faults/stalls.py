"""Clients that promise to take everything and read nothing; and a server that is told to stop."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from time import monotonic
from typing import Any

import psutil

from benchmarks.faults.calls import Stub, bench, outcomes, since
from benchmarks.faults.canary import Latencies, timed_call
from benchmarks.faults.instance import Instance
from benchmarks.faults.requests import GREEDY_HELLO, call, embed
from benchmarks.faults.servers import Cost, Server

Rows = dict[str, dict[str, Any]]

MIB = 1 << 20
DEAF_CLIENTS = 20
READERS = (0, 1, 2, 4, 8, 16, 32, 64)
CANARY_CALLS = 500
CANARY_SECONDS = 1.0
ENOUGH_FAILURES = 5
"""So many failures in a row end a series: the rest would fail too, a second each."""

IN_FLIGHT = 100
IN_FLIGHT_MS = 1000
EXIT_SECONDS = 45.0
"""Longer than the 30 s of grace that our worker gives calls."""


class DeafClients:
    """Connections with one endless answer each, of which nothing is read."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sockets: list[socket.socket] = []

    def grow(self, count: int) -> None:
        """Open more, until there are ``count``."""
        while len(self._sockets) < count:
            connection = socket.create_connection(("127.0.0.1", self._port))
            self._sockets.append(connection)
            connection.sendall(GREEDY_HELLO + call(1, "do:flood"))

    def close(self) -> None:
        """Close all."""
        for connection in self._sockets:
            connection.close()


@contextmanager
def _deaf(server: Server) -> Iterator[DeafClients]:
    clients = DeafClients(server.port)
    try:
        yield clients
    finally:
        clients.close()


def memory(name: str) -> Rows:
    """F6: what clients that do not read cost the server, and the backend."""
    with ExitStack() as stack:
        server, instance, _ = stack.enter_context(bench(name))
        clients = stack.enter_context(_deaf(server))
        with Cost(server.worker) as cost:
            clients.grow(DEAF_CLIENTS)
            octets = instance.sent_when_quiet()
    row = {
        "clients": DEAF_CLIENTS,
        "rss_mib": round(cost.rss_bytes / MIB, 1),
        "sent_mib_each": round(octets / DEAF_CLIENTS / MIB, 1),
    }
    return {"F6": row}


def neighbours(name: str) -> Rows:
    """F6b: how long other calls to the same backend take beside clients that do not read."""
    steps = []
    with ExitStack() as stack:
        server, instance, stub = stack.enter_context(bench(name))
        clients = stack.enter_context(_deaf(server))
        with Cost(server.worker) as cost:
            for count in READERS:
                steps.append({"readers": count, **_beside(clients, count, instance, stub)})
                if steps[-1]["failures"] >= ENOUGH_FAILURES:
                    break
    return {"F6b": {"steps": steps, "rss_mib": round(cost.rss_bytes / MIB, 1)}}


def _beside(clients: DeafClients, count: int, instance: Instance, stub: Stub) -> dict[str, Any]:
    clients.grow(count)
    if count:
        instance.sent_when_quiet()
    latencies = Latencies.of(list(_canary(stub)))
    return {"p99_ms": latencies.quantile(0.99), "failures": latencies.failures}


def _canary(stub: Stub) -> Iterator[float | None]:
    failures = 0
    for _ in range(CANARY_CALLS):
        took = timed_call(stub, CANARY_SECONDS)
        yield took
        failures = failures + 1 if took is None else 0
        if failures == ENOUGH_FAILURES:
            return


def soft_stop(name: str) -> Rows:
    """F7: the server is told to stop while calls are under way."""
    request = embed(f"do:wait {IN_FLIGHT_MS}")
    with bench(name) as (server, instance, stub):
        calls = [stub.Embed.future(request, timeout=EXIT_SECONDS) for _ in range(IN_FLIGHT)]
        for _ in calls:
            instance.next("call")
        begun = monotonic()
        server.stop_softly()
        ends = [(call.code().name, since(begun)) for call in calls]
        exits = _await_exit(server.first, begun)
    lost = sum(status != "OK" for status, _ in ends)
    return {"F7": {**outcomes(ends), "lost": lost, "exit_s": exits}}


def _await_exit(process: psutil.Process, begun: float) -> float | None:
    """Return the seconds from ``begun`` until the process is gone, None if it stays."""
    try:
        process.wait(EXIT_SECONDS)
    except psutil.TimeoutExpired:
        return None
    return round(since(begun) / 1e3, 1)


def slowest_ratio(steps: Sequence[dict[str, Any]]) -> float | None:
    """Return the largest p99 of F6b beside any reader, over the idle one; None if calls failed."""
    if len(steps) < len(READERS) or any(step["failures"] for step in steps):
        return None
    idle, *others = (step["p99_ms"] for step in steps)
    return round(float(max(others) / idle), 1)
