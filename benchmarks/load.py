"""The ways to put load on a proxy, each on one connection and in one thread.

Every way makes its calls through a `Client`, begins with calls that warm the proxy up, and returns
a `Sample` only after all calls were verified.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from select import select
from time import perf_counter_ns, process_time_ns

from benchmarks.answers import answer
from benchmarks.calls import (
    SMALL_ANSWER,
    STREAM,
    TEXT,
    UNARY,
    CallEncoder,
    data_frame,
    embed_message,
)
from benchmarks.client import Client
from benchmarks.peers.peer import Peer
from benchmarks.processes import cpu_ns, kernel_ns
from tei_manager.bench.intervals import percentile
from tei_manager.wire.frames import DEFAULT_MAX_FRAME

UNANSWERED = 200
"""Messages of one stream that may be under way: below the 256 at which our multiplexer waits."""

FEWEST = 200
"""Calls at a fixed rate, at least: two are above the 99th percentile."""


@dataclass(frozen=True)
class Sample:
    """What one run gave.

    Args:
        cpu_us: CPU of the proxy for one call, or for one message of a stream.
        kernel_us: What of it was spent in system calls and interrupts.
        load_us: The load's own.
        per_second: How many of them a second.
        fastest_us: Shortest time of a call, as are the next three at their ranks.
        p50_us: Half of the calls took no longer.
        p99_us: 99 of 100 calls took no longer.
        p999_us: 999 of 1,000 calls took no longer.
    """

    cpu_us: float
    kernel_us: float
    load_us: float
    per_second: float
    fastest_us: float
    p50_us: float
    p99_us: float
    p999_us: float


class Meter:
    """Reads clocks when a block begins and when it ends; garbage is collected before, not in it."""

    def __init__(self, peer: Peer, *clients: Client) -> None:
        self._pids, self._clients = peer.pids, clients

    def __enter__(self) -> Meter:
        gc.collect()
        gc.disable()
        self._warm = [client.done for client in self._clients]
        self._begin = self._clocks()
        return self

    def __exit__(self, *_: object) -> None:
        self._end = self._clocks()
        gc.enable()

    def _clocks(self) -> tuple[int, int, int, int]:
        pids = self._pids
        return cpu_ns(*pids), kernel_ns(*pids), process_time_ns(), perf_counter_ns()

    def sample(self, units: int) -> Sample:
        """Return what the block gave, in which ``units`` calls or messages were answered."""
        ends = zip(self._begin, self._end, strict=True)
        cpu, kernel, load, clock = (end - begin for begin, end in ends)
        warm = zip(self._clients, self._warm, strict=True)
        took = sorted(time for client, done in warm for time in client.took[done:])
        return Sample(
            cpu / units / 1e3,
            kernel / units / 1e3,
            load / units / 1e3,
            units * 1e9 / clock,
            took[0] / 1e3,
            percentile(took, 0.50) / 1e3,
            percentile(took, 0.99) / 1e3,
            percentile(took, 0.999) / 1e3,
        )


def closed(peer: Peer, calls: int, streams: int, messages: Sequence[bytes] = ()) -> Sample:
    """Make unary calls, each as soon as one before it is answered; ``streams`` are under way.

    They send ``messages`` in turn, which are equally long; one of the load's own if there are none.
    """
    messages, warm = messages or [embed_message(TEXT + SMALL_ANSWER)], calls // 5
    size = len(messages[0])
    with Client(peer) as client:
        encoder = client.encoder(UNARY, *messages)
        _closed(client, encoder, size, warm, streams)
        with Meter(peer, client) as meter:
            _closed(client, encoder, size, calls, streams)
        client.verify(warm + calls, len(answer(SMALL_ANSWER)))
    return meter.sample(calls)


def _closed(client: Client, encoder: CallEncoder, size: int, calls: int, streams: int) -> None:
    last = client.done + calls
    while client.done < last:
        if fresh := min(last - len(client.begun), streams - client.under_way):
            now, frames = perf_counter_ns(), []
            for _ in range(fresh):
                client.begin(now)
                frames.append(encoder.unary())
            client.send(b"".join(frames), size * fresh)
        client.receive()


def fixed_rate(peer: Peer, seconds: float, streams: int, rate: float) -> Sample:
    """Make unary calls at a rate that does not ask how the proxy does.

    With one stream the calls begin at even distances, with more as from many callers: at random
    distances, the same ones for every proxy. A call whose time has come while ``streams`` are under
    way waits, and its time counts from when it should have begun.
    """
    message = embed_message(TEXT + SMALL_ANSWER)
    times = arrivals(max(FEWEST, round(rate * seconds)), rate, streams > 1)
    warm = len(times) // 5
    with Client(peer) as client:
        encoder = client.encoder(UNARY, message)
        _closed(client, encoder, len(message), warm, streams)
        with Meter(peer, client) as meter:
            _fixed_rate(client, encoder, len(message), times, streams)
        client.verify(warm + len(times), len(answer(SMALL_ANSWER)))
    return meter.sample(len(times))


def arrivals(calls: int, rate: float, random: bool) -> list[int]:
    """Return when each call shall begin, in ns from the start of the run.

    Args:
        calls: How many.
        rate: Calls a second.
        random: A Poisson process, always the same one, instead of even distances.
    """
    draw, times, time = Random(1).expovariate, [], 0.0
    for _ in range(calls):
        times.append(int(time * 1e9))
        time += draw(rate) if random else 1 / rate
    return times


def _fixed_rate(
    client: Client, encoder: CallEncoder, size: int, times: list[int], streams: int
) -> None:
    start, begun = perf_counter_ns(), 0
    while begun < len(times) or client.under_way:
        free = begun < len(times) and client.under_way < streams
        wait = max(0, start + times[begun] - perf_counter_ns()) / 1e9 if free else None
        if wait == 0:
            client.begin(start + times[begun])
            client.send(encoder.unary(), size)
            begun += 1
        elif select([client.socket], [], [], wait)[0]:
            client.receive()


def messages(peer: Peer, calls: int, each: int) -> Sample:
    """Make streams of ``each`` messages, one stream after the other, `UNANSWERED` under way."""
    with Client(peer) as client:
        encoder = client.encoder(STREAM)
        _stream(client, encoder, each)
        with Meter(peer, client) as meter:
            for _ in range(calls):
                _stream(client, encoder, each)
        client.verify(1 + calls, each * len(answer(SMALL_ANSWER)))
    return meter.sample(calls * each)


def _stream(client: Client, encoder: CallEncoder, each: int) -> None:
    message, size = embed_message(TEXT + SMALL_ANSWER), len(answer(SMALL_ANSWER))
    stream_id, sent, done = client.begin(perf_counter_ns()), 0, client.done
    frames = [encoder.headers()]
    while client.done == done:
        answered = client.octets[-1] // size
        most = min(each - sent, UNANSWERED - (sent - answered))
        fresh = min(most, client.allowance(stream_id) // len(message))
        for _ in range(fresh):
            sent += 1
            frames.append(data_frame(stream_id, message, sent == each))
        if frames:
            client.spend(stream_id, fresh * len(message))
            client.send(b"".join(frames), fresh * len(message))
            frames = []
        client.receive()


def requests_of(peer: Peer, calls: int, octets: int) -> Sample:
    """Make calls one after the other whose message has so many octets and whose answer is small."""
    text = "x" * (octets - 1) + SMALL_ANSWER
    return _sized(peer, calls, embed_message(text), len(answer(SMALL_ANSWER)))


def answers_of(peer: Peer, calls: int, ending: str) -> Sample:
    """Make calls one after the other whose answer is `SIZES` of ``ending`` and message small."""
    return _sized(peer, calls, embed_message(TEXT + ending), len(answer(ending)))


def _sized(peer: Peer, calls: int, message: bytes, octets: int) -> Sample:
    with Client(peer) as client:
        encoder = client.encoder(UNARY)
        _pour(client, encoder, message)
        with Meter(peer, client) as meter:
            for _ in range(calls):
                _pour(client, encoder, message)
        client.verify(1 + calls, octets)
    return meter.sample(calls)


def _pour(client: Client, encoder: CallEncoder, message: bytes) -> None:
    """Make one call, and send its message as fast as the windows allow."""
    view, sent, done = memoryview(message), 0, client.done
    stream_id = client.begin(perf_counter_ns())
    client.send(encoder.headers(), 0)
    while sent < len(view):
        size = min(DEFAULT_MAX_FRAME, len(view) - sent, client.allowance(stream_id))
        if size > 0:
            client.spend(stream_id, size)
            frame = data_frame(stream_id, view[sent : sent + size], sent + size == len(view))
            client.send(frame, size)
            sent += size
        else:
            client.receive()
    while client.done == done:
        client.receive()
