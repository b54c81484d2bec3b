"""Memory of a worker: idle, and what streams that are open but quiet add to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns

from benchmarks.answers import answer
from benchmarks.calls import SMALL_ANSWER, STREAM, TEXT, data_frame, embed_message
from benchmarks.client import Client
from benchmarks.peers import Peer
from benchmarks.processes import memory_mb

STREAMS = 1_000
EACH = 100
"""Streams of a connection: no more than every proxy takes by default."""


def memory(peer: Peer) -> dict[str, float]:
    """Measure a proxy that has just been started.

    Returns:
        ``idle_mb``: once it has served one connection; ``streams_mb``: what `STREAMS` add.
    """
    with open_streams(peer, 1, 1):
        pass
    idle = memory_mb(*peer.pids)
    with open_streams(peer, STREAMS):
        return {"idle_mb": idle, "streams_mb": memory_mb(*peer.pids) - idle}


@contextmanager
def open_streams(peer: Peer, streams: int, each: int = EACH) -> Iterator[None]:
    """Hold streams open that have had one message answered, ``each`` to a connection."""
    clients: list[Client] = []
    try:
        for _ in range(streams // each):
            clients.append(Client(peer))
            _hold(clients[-1], each)
        yield
    finally:
        for client in clients:
            client.close()


def _hold(client: Client, streams: int) -> None:
    message, size = embed_message(TEXT + SMALL_ANSWER), len(answer(SMALL_ANSWER))
    encoder = client.encoder(STREAM)
    for _ in range(streams):
        stream_id = client.begin(perf_counter_ns())
        client.send(encoder.headers() + data_frame(stream_id, message), len(message))
    while sum(client.octets) < streams * size:
        client.receive()
