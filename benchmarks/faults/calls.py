"""Calls of honest gRPC clients, and what they came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median
from time import monotonic
from typing import Any

import grpc

from benchmarks.faults.instance import Instance, backend
from benchmarks.faults.servers import Server, serving
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc

Stub = mux_grpc.TeiMultiplexerStub


@contextmanager
def bench(name: str) -> Iterator[tuple[Server, Instance, Stub]]:
    """Run a backend and a server, with a client's stub whose connection is there."""
    with ExitStack() as stack:
        instance = stack.enter_context(backend())
        server = stack.enter_context(serving(name, instance.port))
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.port}"))
        grpc.channel_ready_future(channel).result(10)
        yield server, instance, Stub(channel)


def outcome(call: Callable[[], object]) -> tuple[str, float]:
    """Make a call; returns the name of its status, and milliseconds."""
    begun = monotonic()
    status = "OK"
    try:
        call()
    except grpc.RpcError as error:
        status = error.code().name
    return status, since(begun)


def since(begun: float, end: float | None = None) -> float:
    """Return the milliseconds from ``begun`` to ``end``, by default to now."""
    return ((monotonic() if end is None else end) - begun) * 1e3


def times(milliseconds: Sequence[float]) -> dict[str, Any]:
    """Sum up samples of a time."""
    return {
        "median_ms": round(median(milliseconds), 1),
        "worst_ms": round(max(milliseconds), 1),
        "samples": len(milliseconds),
    }


def outcomes(samples: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """Sum up samples of `outcome`: their statuses, and their times."""
    counts = Counter(status for status, _ in samples).most_common()
    several = len(counts) > 1
    status = ", ".join(f"{count} x {name}" if several else name for name, count in counts)
    return {"status": status, **times([milliseconds for _, milliseconds in samples])}
