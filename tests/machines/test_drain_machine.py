"""M6: whatever signals and calls come in whatever order, a worker ends in time and loses no call.

1. A call that came before the worker's last GOAWAY, which names it, is answered if its instance
   answers within the grace period and nobody asks a second time.
2. A worker ends when it has been asked and its clients are gone, at the latest when the grace
   period is over, and at once when it is asked again.
"""

from __future__ import annotations

import signal
from math import inf

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
from memory_switch import H2Peer, PeerStream, memory_switch, serve
from multiplexer import embed, framed, path

from tei_manager.mux.worker import GRACE_SECONDS

OK = [("grpc-status", "0")]


class DrainMachine(RuleBasedStateMachine):
    @initialize(clients=st.integers(1, 3))
    def begin(self, clients: int) -> None:
        self._context = memory_switch(("a", 1), request_timeout_secs=0, send_timeout_secs=inf)
        self.memory = self._context.__enter__()
        self.memory.instances[1] = lambda peer: peer.start()
        self.serving = serve(self.memory)
        self.calls: list[tuple[H2Peer, PeerStream]] = []
        self.answered: set[int] = set()
        self.left: set[H2Peer] = set()
        self.asked_at: float | None = None
        self.asked_twice = False
        self.clients = [self.memory.connect() for _ in range(clients)]
        self.memory.settle()

    @property
    def _elapsed(self) -> float:
        return 0.0 if self.asked_at is None else self.memory.loop.now - self.asked_at

    @rule(data=st.data())
    def call(self, data: st.DataObject) -> None:
        open_ones = [peer for peer in self.clients if not (peer.closed or peer.goodbyes)]
        if not open_ones:
            return
        client = data.draw(st.sampled_from(open_ones), "client")
        stream = client.call(path("Embed"), ("x-call", str(len(self.calls))))
        client.send(stream, framed(embed()), True)
        self.calls.append((client, stream))

    @precondition(lambda self: len(self.calls) > len(self.answered))
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        number = data.draw(
            st.sampled_from([n for n in range(len(self.calls)) if n not in self.answered])
        )
        for _, peer in self.memory.backends:
            for stream in peer.streams.values():
                if stream.heads[0]["x-call"] == str(number) and not peer.closed:
                    self._answer(number, peer, stream)

    def _answer(self, number: int, peer: H2Peer, stream: PeerStream) -> None:
        if stream.reset is None and number not in self.answered:
            self.answered.add(number)
            peer.answer(stream)
            peer.send(stream, framed(b"%d" % number), OK)

    @rule(data=st.data(), reads=st.booleans())
    def stall(self, data: st.DataObject, reads: bool) -> None:
        data.draw(st.sampled_from(self.clients), "client").reads = reads

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.clients), "client")
        client.wire.cut()
        self.left.add(client)

    @rule(number=st.sampled_from([signal.SIGTERM, signal.SIGINT]))
    def ask_to_end(self, number: int) -> None:
        if self.serving.done():
            return
        self.asked_twice = self.asked_at is not None
        if self.asked_at is None:
            self.asked_at = self.memory.loop.now
        self.memory.loop.signals[number]()

    @rule(seconds=st.sampled_from([0.1, 3.0, GRACE_SECONDS / 2]))
    def wait(self, seconds: float) -> None:
        self.memory.advance(seconds)

    @invariant()
    def it_ends_when_it_should_and_not_before(self) -> None:
        self.memory.settle()
        gone = not self.memory.switch.counters.client_connections
        due = self.asked_at is not None and (
            gone or self.asked_twice or self._elapsed >= GRACE_SECONDS
        )
        assert self.serving.done() == due
        assert self.asked_at is None or self.memory.loop.accept is None, "it takes new clients"

    @invariant()
    def every_accepted_call_is_answered(self) -> None:
        self.memory.settle()
        if self.asked_twice or self._elapsed >= GRACE_SECONDS:
            return
        for number, (client, stream) in enumerate(self.calls):
            refused = any(stream.id > last for last, _ in client.goodbyes)
            if refused or client in self.left or not client.reads:
                continue
            over = number in self.answered or client.closed
            assert stream.ended or not over, f"call {number} is lost"
            if stream.ended:
                assert stream.heads[-1]["grpc-status"] == "0"
                assert stream.body == framed(b"%d" % number)

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        try:
            if self.asked_at is None:
                self.ask_to_end(signal.SIGTERM)
            self.memory.advance(GRACE_SECONDS)
            assert self.serving.done(), "the grace period is over, and it goes on"
            self.serving.result()
            assert self.memory.leftovers() == {}
        finally:
            self._context.__exit__(None, None, None)


@pytest.mark.timeout(600)
def test_a_worker_ends_within_its_grace_and_loses_no_accepted_call() -> None:
    run_state_machine_as_test(DrainMachine, settings=MACHINE)
