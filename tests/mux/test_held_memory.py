"""Calls that were begun in time hold no more than the memory limit either."""

from __future__ import annotations

import pytest
from memory_switch import H2Peer, memory_switch
from multiplexer import embed, framed, path

CHECK = "/grpc.health.v1.Health/Check"
PART = bytes(16_384)
HELD = b"\0" + (4 << 20).to_bytes(4, "big") + b"\x12" + PART
"""The beginning of a message of 4 MiB that has its request first, and so is held whole."""


@pytest.mark.parametrize("method", ["Embed", "EmbedStream", "RerankStream"])
def test_messages_that_grow_stop_at_the_limit_though_their_calls_were_begun_below(
    method: str,
) -> None:
    """A hundred calls with up to 4 MiB each, and 50 MiB is the limit."""
    with memory_switch(("a", 1), memory_limit_mb=50) as memory:
        client, other = memory.connect(), memory.connect()
        calls = [client.call(path(method)) for _ in range(100)]
        for call in calls:
            client.send(call, HELD)
        memory.settle()
        pool, most = memory.switch.pool, memory.switch.memory_critical
        for _ in range(60):
            for call in calls:
                client.send(call, b"" if call.over else PART)
            memory.settle()
            assert pool.queued <= most + len(PART)
        refused = [call.heads[-1] for call in calls if call.over]
        assert 10 < len(refused) < 100
        assert {head["grpc-status"] for head in refused} == {"8"}
        assert "memory limit" in refused[0]["grpc-message"]
        finish(client)
        assert not other.closed
        memory.settle()
        assert not memory.leftovers()


def test_messages_above_the_cap_stop_at_the_limit() -> None:
    """The instance answers nothing, so all but one message of each of a hundred streams is held."""
    with memory_switch(("a", 1), memory_limit_mb=5, max_unanswered=1) as memory:
        memory.instances[1] = lambda peer: peer.start()
        client = memory.connect()
        calls = [client.call(path("EmbedStream")) for _ in range(100)]
        for call in calls:
            client.send(call, framed(embed("x" * 1000)) * 60)
        memory.settle()
        assert memory.switch.pool.queued <= memory.switch.memory_critical + len(PART)
        refused = [call.heads[-1] for call in calls if call.over]
        assert 10 < len(refused) < 100
        assert {head["grpc-status"] for head in refused} == {"8"}
        finish(client)
        memory.settle()
        assert not memory.leftovers()


def test_what_questions_hold_that_are_answered_here_is_counted() -> None:
    with memory_switch(memory_limit_mb=50) as memory:
        client = memory.connect()
        calls = [client.call(CHECK) for _ in range(100)]
        for call in calls:
            client.send(call, b"\0\0\0\x0f\xff" + bytes(4000))
        memory.settle()
        assert memory.switch.pool.queued == 100 * 4005
        for call in calls[:50]:
            client.send(call, bytes(95), True)
        memory.settle()
        assert memory.switch.pool.queued == 50 * 4005
        finish(client)
        memory.settle()
        assert not memory.leftovers()


def finish(client: H2Peer) -> None:
    """Reset what is not over."""
    for call in client.streams.values():
        if not call.over:
            client.reset(call, 8)
