"""M5: the connections to an instance, while it restarts, says goodbye, idles and is renamed.

An instance is a process with a key and an api key of its own, and every call carries the api key of
the process that its route named. So an instance that sees another's call has shown a foreign
connection.

1. No call comes to a process that its route did not mean.
2. A connection that takes calls is open, and has no more calls than its instance allows.
3. Every call has one outcome, and then its place is free.
"""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from machine_settings import MACHINE
from memory_switch import H2Peer, PeerStream, memory_switch
from multiplexer import table

from tei_manager.grpc.methods import METHODS
from tei_manager.grpc.status import Code
from tei_manager.mux.backends import MAX_CONNECTIONS, MAX_WAITING
from tei_manager.mux.exchange import Exchange
from tei_manager.mux.upstream import IDLE_SECONDS
from tei_manager.routes import Route
from tei_manager.wire.answers import ResponseHead

EMBED = next(method for method in METHODS.values() if method.name == "Embed")
PORT = 1


class Outcome:
    """The sink of a call: what was told of it, and how often."""

    def __init__(self) -> None:
        self.codes: list[int] = []
        self.gone = 0

    def on_answer(self, head: ResponseHead) -> None: ...

    def on_bytes(self, data: bytes) -> None: ...

    def on_room(self) -> None: ...

    def on_end(self, head: ResponseHead) -> None:
        self.codes.append(head.grpc_status or 0)

    def on_whole_answer(self, answer: bytes, data: bytes, trailers: bytes) -> bool:
        self.codes.append(0)
        return True

    def on_failure(self, code: Code, message: str, more: bytes) -> None:
        self.codes.append(code)

    def on_gone(self) -> None:
        self.gone += 1


class PoolMachine(RuleBasedStateMachine):
    @initialize(streams=st.integers(1, 5))
    def begin(self, streams: int) -> None:
        self._context = memory_switch()
        self.memory = self._context.__enter__()
        self.streams = streams
        self.process = 0
        self.names = 0
        self.version = 1
        self.owners: dict[H2Peer, int] = {}
        self.calls: list[tuple[Exchange, Outcome]] = []
        self.cancelled: set[Exchange] = set()
        self._start()
        self._route()

    def _start(self) -> None:
        number = self.process

        def greet(peer: H2Peer) -> None:
            self.owners[peer] = number
            peer.start(max_concurrent_streams=self.streams)

        self.memory.instances[PORT] = greet

    def _route(self) -> None:
        self.version += 1
        self.name = f"name-{self.names}"
        key = f"key-{self.process}"
        route = Route(self.name, "org/model", port=PORT, key=key, api_key=key)
        self.memory.worker.apply(table(route, version=self.version))

    def _open(self) -> list[H2Peer]:
        return [peer for _, peer in self.memory.backends if not peer.closed]

    def _running(self) -> list[tuple[H2Peer, PeerStream]]:
        return [
            (peer, stream)
            for peer in self._open()
            for stream in peer.streams.values()
            if stream.reset is None and not stream.answered and stream.id <= peer.last
        ]

    @rule(count=st.integers(1, 12))
    def acquire(self, count: int) -> None:
        backend = self.memory.switch.backends[self.name]
        for _ in range(count):
            outcome = Outcome()
            exchange = Exchange(backend, outcome, backend.block(EMBED), None)
            self.calls.append((exchange, outcome))
            exchange.send(b"\0\0\0\0\0", True)
            backend.submit(exchange)
        self.memory.switch.flush()

    @precondition(lambda self: self._running())
    @rule(data=st.data(), count=st.integers(1, 8))
    def answer(self, data: st.DataObject, count: int) -> None:
        for _ in range(count):
            if running := self._running():
                peer, stream = data.draw(st.sampled_from(running), "call")
                peer.answer(stream)
                peer.send(stream, b"\0\0\0\0\0", [("grpc-status", "0")])

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        exchange, _ = data.draw(st.sampled_from(self.calls), "call")
        if not exchange.over:
            self.cancelled.add(exchange)
            exchange.cancel()
            self.memory.switch.flush()

    @rule(known=st.booleans())
    def restart(self, known: bool) -> None:
        """Another process comes to the port; the route table tells it, or is late."""
        for peer in self._open():
            peer.wire.cut(ConnectionResetError())
        self.process += 1
        if known:
            self._start()
            self._route()
        else:
            self.memory.instances.pop(PORT, None)
            self.memory.settle()
            self._start()
            self._route()

    @rule()
    def replace_without_a_loss(self) -> None:
        """The old process still lives when its successor takes the port."""
        self.process += 1
        self._start()
        self._route()

    @rule()
    def rename(self) -> None:
        self.names += 1
        self._route()

    @precondition(lambda self: self._open())
    @rule(data=st.data(), keep=st.booleans())
    def say_goodbye(self, data: st.DataObject, keep: bool) -> None:
        peer = data.draw(st.sampled_from(self._open()), "connection")
        peer.goaway(max(peer.streams if keep else peer.begun, default=0))

    @precondition(lambda self: self._open())
    @rule(data=st.data(), streams=st.integers(0, 5))
    def change_limit(self, data: st.DataObject, streams: int) -> None:
        peer = data.draw(st.sampled_from(self._open()), "connection")
        peer.limit(streams)

    @rule()
    def refuse_connections(self) -> None:
        self.memory.instances.pop(PORT, None)

    @rule()
    def accept_connections(self) -> None:
        self._start()

    @rule(seconds=st.sampled_from([0.02, 1.0, IDLE_SECONDS + 1]))
    def wait(self, seconds: float) -> None:
        self.memory.settle()
        self.memory.loop.advance(seconds)

    @invariant()
    def no_call_is_on_a_dead_or_foreign_connection(self) -> None:
        self.memory.settle()
        for peer, process in self.owners.items():
            for stream in peer.streams.values():
                assert stream.heads[0]["authorization"] == f"Bearer key-{process}"
        backend = self.memory.switch.backends[self.name]
        assert len(backend._endpoints) <= MAX_CONNECTIONS
        for endpoint in backend._endpoints:
            assert endpoint.transport is not None
            assert not endpoint.transport.is_closing()
            assert not endpoint.connection.going
        live = sum(getattr(e, "live", 0) for e in self.memory.switch.endpoints)
        attached = [e for e, _ in self.calls if e.endpoint is not None and not e.is_gone]
        assert live == len(attached)

    @invariant()
    def every_call_has_one_outcome_at_most(self) -> None:
        self.memory.settle()
        for exchange, outcome in self.calls:
            assert len(outcome.codes) <= 1
            assert outcome.gone <= 1
            assert bool(outcome.codes) == (exchange.over and exchange not in self.cancelled)
        backend = self.memory.switch.backends[self.name]
        assert backend.waiting <= MAX_WAITING
        if backend.waiting:
            assert not any(endpoint.has_room for endpoint in backend._endpoints)

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        try:
            self._end_well()
        finally:
            self._context.__exit__(None, None, None)

    def _end_well(self) -> None:
        self._start()
        for peer in self._open():
            peer.limit(100)
        for _ in range(len(self.calls) + 2):
            self.memory.settle()
            for peer, stream in self._running():
                peer.answer(stream)
                peer.send(stream, b"", [("grpc-status", "0")])
            self.memory.advance(1)
        self.every_call_has_one_outcome_at_most()
        for exchange, outcome in self.calls:
            assert exchange.is_gone
            assert outcome.gone == 1
            assert bool(outcome.codes) != (exchange in self.cancelled)
        assert self.memory.leftovers() == {}


@pytest.mark.timeout(600)
def test_no_call_is_on_a_dead_or_foreign_connection() -> None:
    run_state_machine_as_test(PoolMachine, settings=MACHINE)
