"""A backend that dies, is away, comes back or freezes; clients that cancel, die or lose patience.

Names F1 to F8 are those of the report's rows. Every figure is the median of several samples.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from time import monotonic, sleep
from typing import Any

from benchmarks.faults.calls import Stub, bench, outcome, outcomes, since, times
from benchmarks.faults.instance import Instance
from benchmarks.faults.requests import embed

Rows = dict[str, dict[str, Any]]

DEATHS = 5
CANCELS = 20
CLIENT_DEATHS = 5
DEADLINES = 10
FREEZES = 3
"""Samples of each."""

CALL_SECONDS = 10.0
"""Deadline of calls that are expected to end before it."""

RETRY_SECONDS = 0.005
"""Pause of F2b's client between two calls: C-core's client has aborted when there was none."""

DEADLINE_SECONDS = 0.3
FROZEN_SECONDS = 1.0
"""Deadlines of calls that are expected to run into them: of F5, and of F8."""


def deaths(name: str) -> Rows:
    """F1, F2 and F2b: the backend is killed under a stream, is away, and comes back."""
    samples = []
    with bench(name) as (_, instance, stub):
        for _ in range(DEATHS):
            stub.Embed(embed("hello"), timeout=CALL_SECONDS)
            samples.append((_kill(stub, instance), _away(stub), _back(stub, instance)))
    killed, away, back = zip(*samples, strict=True)
    return {"F1": outcomes(killed), "F2": outcomes(away), "F2b": times(back)}


def _kill(stub: Stub, instance: Instance) -> tuple[str, float]:
    stream = stub.EmbedStream(iter([embed("do:begin")]), timeout=CALL_SECONDS)
    next(iter(stream))
    begun = monotonic()
    instance.kill()
    status, _ = outcome(lambda: list(stream))
    return status, since(begun)


def _away(stub: Stub) -> tuple[str, float]:
    return outcome(lambda: stub.Embed(embed("hello"), timeout=CALL_SECONDS))


def _back(stub: Stub, instance: Instance) -> float:
    """Call until one succeeds; returns the milliseconds since the backend listens."""
    listens = instance.start()
    while since(listens) < CALL_SECONDS * 1e3:
        status, _ = outcome(lambda: stub.Embed(embed("hello"), timeout=CALL_SECONDS))
        if status == "OK":
            return since(listens)
        sleep(RETRY_SECONDS)
    raise TimeoutError(f"no call succeeded within {CALL_SECONDS} s of the backend's return")


def goodbyes(name: str) -> Rows:
    """F3, F4 and F5: a client cancels, is killed, or its deadline passes."""
    with bench(name) as (server, instance, stub):
        cancels = [_cancel(stub, instance) for _ in range(CANCELS)]
        client_deaths = [_kill_client(server.port, instance) for _ in range(CLIENT_DEATHS)]
        deadlines = [_expire(stub, instance) for _ in range(DEADLINES)]
    told = chain.from_iterable(backend for _, backend in deadlines)
    return {
        "F3": times(cancels),
        "F4": times(client_deaths),
        "F5": outcomes([client for client, _ in deadlines]),
        "F5, backend told": times(list(told)),
    }


def _cancel(stub: Stub, instance: Instance) -> float:
    call = stub.Embed.future(embed("do:hold"), timeout=CALL_SECONDS)
    instance.next("call")
    begun = monotonic()
    call.cancel()  # type: ignore[no-untyped-call]
    return since(begun, instance.next("reset")["at"])


def _kill_client(port: int, instance: Instance) -> float:
    with _holder(port) as client:
        instance.next("call")
        begun = monotonic()
        client.kill()
        return since(begun, instance.next("reset")["at"])


@contextmanager
def _holder(port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a client that makes one call without an answer."""
    argv = [sys.executable, "-m", "benchmarks.faults.holder", str(port)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _expire(stub: Stub, instance: Instance) -> tuple[tuple[str, float], list[float]]:
    begun = monotonic()
    client = outcome(lambda: stub.Embed(embed("do:hold"), timeout=DEADLINE_SECONDS))
    return client, [since(begun, instance.next("reset")["at"])]


def freezes(name: str) -> Rows:
    """F8: the backend is stopped for as long as one call's deadline, and goes on."""
    frozen, thawed = [], []
    with bench(name) as (_, instance, stub):
        for _ in range(FREEZES):
            stub.Embed(embed("hello"), timeout=CALL_SECONDS)
            instance.freeze()
            frozen.append(outcome(lambda: stub.Embed(embed("hello"), timeout=FROZEN_SECONDS)))
            instance.thaw()
            thawed.append(outcome(lambda: stub.Embed(embed("hello"), timeout=CALL_SECONDS)))
    return {"F8": outcomes(frozen), "F8, after": outcomes(thawed)}
