"""The honest client beside an attack: one call every ten milliseconds, from a process of its own.

    python -m benchmarks.faults.canary PORT

answers each line on standard input with one on standard output: a JSON list of the calls since the
line before, in milliseconds, null for a call that failed. The line says until when to go on
(``time.monotonic()``, one clock for all processes). It ends with its standard input.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, perf_counter, sleep

import grpc

from benchmarks.faults.requests import embed
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc

PAUSE_SECONDS = 0.01
CALL_SECONDS = 2.0
WARM_UP_CALLS = 50
TEXT = "Is anybody there?"


@dataclass(frozen=True)
class Latencies:
    """Calls that succeeded, in ms, and how many did not."""

    milliseconds: list[float]
    failures: int

    @classmethod
    def of(cls, calls: list[float | None]) -> Latencies:
        """Sort calls; None stands for one that failed."""
        good = [call for call in calls if call is not None]
        return cls(sorted(good), len(calls) - len(good))

    def quantile(self, share: float) -> float | None:
        """Return the latency that ``share`` of the calls did not exceed, None without calls."""
        if not self.milliseconds:
            return None
        last = len(self.milliseconds) - 1
        return round(self.milliseconds[min(last, int(share * len(self.milliseconds)))], 2)


def timed_call(stub: mux_grpc.TeiMultiplexerStub, limit: float = CALL_SECONDS) -> float | None:
    """Make one call; returns milliseconds, None if it failed."""
    begun = perf_counter()
    try:
        stub.Embed(embed(TEXT), timeout=limit)
    except grpc.RpcError:
        return None
    return (perf_counter() - begun) * 1e3


class Canary:
    """The client's process, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def collect(self, until: float = 0.0) -> Latencies:
        """Return the calls since the last time, once it is ``until``."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(until, file=self._process.stdin, flush=True)
        return Latencies.of(json.loads(self._process.stdout.readline()))


@contextmanager
def singing(port: int) -> Iterator[Canary]:
    """Run an honest client until the block ends; it has made its first calls."""
    argv = [sys.executable, "-m", "benchmarks.faults.canary", str(port)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        canary = Canary(process)
        canary.collect()
        yield canary
        assert process.stdin is not None
        process.stdin.close()


def _main(port: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        for _ in range(WARM_UP_CALLS):
            timed_call(stub)
        calls: list[float | None] = []
        while line := _sing(stub, calls):
            while monotonic() < float(line):
                sleep(PAUSE_SECONDS)
                calls.append(timed_call(stub))
            print(json.dumps(calls), flush=True)
            calls.clear()


def _sing(stub: mux_grpc.TeiMultiplexerStub, calls: list[float | None]) -> str:
    """Make calls until somebody asks for them; returns the line, empty at the end of input."""
    while not select.select([sys.stdin], [], [], PAUSE_SECONDS)[0]:
        calls.append(timed_call(stub))
    return sys.stdin.readline()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
