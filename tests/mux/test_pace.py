"""Clients that go on by an octet now and then: borne with, until memory is short."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from memory_switch import ANSWER, H2Peer, MemorySwitch, PeerStream, memory_switch
from multiplexer import embed, framed, path

from tei_manager.mux.pace import RATE
from tei_manager.wire import frames

LIMIT = 30.0
"""Seconds that a call may be slow; the default."""

SHORT = 460 << 20
"""Octets that somebody else holds: nine tenths of what the worker may have."""


class Slow:
    """A client with shut windows, and an instance that answers 60,000 octets."""

    def __init__(self, memory: MemorySwitch) -> None:
        self.memory = memory
        memory.instances[1] = lambda peer: peer.start()
        self.client = memory.connect()
        self.client.credits = False
        self.client.h2.update_settings({4: 0})
        memory.settle()

    def ask(self) -> PeerStream:
        """Make a call; its answer waits for windows, with an end that is not sent."""
        call = self.client.call(path("EmbedStream"))
        self.client.send(call, framed(embed()))
        self.memory.settle()
        (_, instance) = self.memory.backends[0]
        return self._answer(instance, call)

    def _answer(self, instance: H2Peer, call: PeerStream) -> PeerStream:
        asked = max(instance.streams)
        instance.h2.send_headers(asked, ANSWER)
        instance.send(instance.streams[asked], framed(bytes(60_000)))
        self.memory.settle()
        return call

    def open(self, call: PeerStream, octets: int) -> None:
        """Open the call's window by so much."""
        self.client.h2.increment_flow_control_window(octets, call.id)

    def take(self, call: PeerStream, rate: int, seconds: int) -> None:
        """Open the call's window by so much a second."""
        for _ in range(seconds):
            if call.reset is None:
                self.open(call, rate)
            self.memory.advance(1)

    def shortage(self) -> None:
        self.memory.switch.pool.queued += SHORT

    def plenty(self) -> None:
        self.memory.switch.pool.queued -= SHORT


@pytest.fixture
def slow() -> Iterator[Slow]:
    with memory_switch(("a", 1)) as memory:
        yield Slow(memory)


def test_an_octet_a_second_is_borne_while_there_is_memory(slow: Slow) -> None:
    call = slow.ask()
    slow.take(call, 1, 10 * int(LIMIT))
    assert call.reset is None
    assert not slow.client.closed


def test_when_memory_is_short_a_call_that_dribbles_is_reset_on_both_sides(slow: Slow) -> None:
    call, memory = slow.ask(), slow.memory
    slow.take(call, 1, int(LIMIT) + 2)
    held = memory.switch.pool.queued
    slow.shortage()
    memory.advance(1)
    assert call.reset == frames.ErrorCode.ENHANCE_YOUR_CALM
    slow.plenty()
    assert (held > 59_000, memory.switch.pool.queued) == (True, 0)
    (_, instance) = memory.backends[0]
    assert instance.streams[1].reset == frames.ErrorCode.CANCEL
    assert memory.switch.counters.rejected == {"slow_while_memory_is_short": 1}
    assert not memory.leftovers()
    assert not slow.client.closed


def test_who_was_slow_for_less_than_the_limit_stays(slow: Slow) -> None:
    call = slow.ask()
    slow.shortage()
    slow.take(call, 1, int(LIMIT) - 2)
    assert call.reset is None
    slow.take(call, 1, 4)
    assert call.reset is not None
    slow.plenty()


@pytest.mark.parametrize("pause", [1, 20])
def test_a_slow_line_stays_whether_it_goes_on_evenly_or_by_leaps(slow: Slow, pause: int) -> None:
    call = slow.ask()
    slow.shortage()
    for _ in range(4 * int(LIMIT) // pause):
        slow.open(call, (RATE + 50) * pause)
        slow.memory.advance(pause)
    assert call.reset is None
    slow.plenty()


def test_the_neighbour_of_a_call_that_dribbles_stays(slow: Slow) -> None:
    bad, good = slow.ask(), slow.ask()
    slow.shortage()
    for _ in range(int(LIMIT) + 2):
        slow.open(good, 2 * RATE)
        slow.take(bad, 1, 1)
    assert (bad.reset is None, good.reset) == (False, None)
    slow.plenty()


def test_a_call_that_has_nothing_waiting_may_be_silent_however_short_memory_is(slow: Slow) -> None:
    call = slow.ask()
    slow.open(call, 60_005)
    slow.shortage()
    slow.memory.advance(4 * LIMIT)
    assert call.reset is None
    slow.plenty()


def test_an_answer_that_is_complete_and_not_taken_goes_too(slow: Slow) -> None:
    call, memory = slow.ask(), slow.memory
    slow.client.send(call, b"", True)
    memory.settle()
    (_, instance) = memory.backends[0]
    instance.send(instance.streams[1], b"", [("grpc-status", "0")])
    memory.settle()
    assert (memory.switch.counters.in_flight, memory.switch.pool.queued) == (0, 60_005)
    slow.shortage()
    slow.take(call, 1, int(LIMIT) + 2)
    slow.plenty()
    assert (call.reset is None, memory.leftovers()) == (False, {})


def test_a_message_that_comes_octet_by_octet_goes_when_memory_is_short(slow: Slow) -> None:
    """It is compressed, so it is held until it is whole; and it is not the first of its call."""
    memory = slow.memory
    call = slow.client.call(path("EmbedStream"), ("grpc-encoding", "gzip"))
    beginning = b"\1" + (60_000).to_bytes(4, "big") + bytes(50_000)
    slow.client.send(call, framed(embed()) + beginning)
    memory.settle()
    assert memory.switch.pool.queued == 50_000
    for _ in range(2 * int(LIMIT)):
        slow.client.send(call, b"x")
        memory.advance(1)
    assert call.reset is None
    slow.shortage()
    memory.advance(1)
    assert call.reset == frames.ErrorCode.ENHANCE_YOUR_CALM
    slow.plenty()
    assert not memory.leftovers()
