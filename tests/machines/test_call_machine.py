"""M3: clients and instances do what they like; the switch between them loses and mixes up nothing.

Client scripts and instance scripts run through the real worker in memory. A call's model is what
each side has said, and the set of statuses that have become possible by it (``may``).

1. What an instance has received of a call is a beginning of what its client sent, and the other
   way round; all of it, where nobody stalls and the call is not over.
2. A call that its client does not cancel ends with one status, and with one that may be.
3. A cancelled call ends at its instance. In the end nothing is held for any call.
"""

from __future__ import annotations

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
from memory_switch import H2Peer, PeerStream, memory_switch
from multiplexer import embed, framed, path
from taken import shortcuts_taken

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.grpc.status import Code, from_reset
from tei_manager.wire import frames

PORTS = {"a": 1, "b": 2}
UNANSWERED = 3
SIZES = st.sampled_from([0, 1, 100, 5_000, 20_000, 150_000])
RESETS = st.sampled_from([0, 2, 7, 8, 11, 99])


class CallModel:
    """One call, and what was said on it."""

    def __init__(self, number: int, client: H2Peer, name: str, unary: bool, timed: bool) -> None:
        self.number, self.client, self.name, self.unary = number, client, name, unary
        metadata = [("x-call", str(number)), ("grpc-timeout", "2S")]
        method = path("Embed" if unary else "EmbedStream")
        self.stream = client.call(method, *metadata[: 1 + timed])
        self.may: set[int] = {Code.DEADLINE_EXCEEDED} if timed or unary else {Code.UNAVAILABLE}
        self.asked = self.told = b""
        self.questions = self.answers = 0
        self.half_closed = self.cancelled = self.finished = False
        self.guessed = False  # got an answer to what was not asked, which lets no question through

    @property
    def status(self) -> int | None:
        """What the client was told."""
        heads = self.stream.heads
        found = heads[-1].get("grpc-status") if heads and self.stream.ended else None
        return None if found is None else int(found)

    @property
    def open(self) -> bool:
        """Whether the client may still say something."""
        gone = self.cancelled or self.stream.over or self.client.closed
        return not gone and not self.half_closed

    def ask(self, size: int) -> None:
        """Send a message, and what a unary call has behind it."""
        text = f"{self.number}.{self.questions}" + "x" * size
        self.asked += framed(tei_pb2.EmbedRequest(inputs=text).SerializeToString())
        self.questions += 1
        self.half_closed = self.unary
        self.client.send(self.stream, framed(embed(text, self.name)), self.unary or None)


class CallMachine(RuleBasedStateMachine):
    @initialize(plain=st.booleans(), joins=st.booleans())
    def begin(self, plain: bool, joins: bool) -> None:
        routes = list(PORTS.items())
        self._context = memory_switch(*routes, max_unanswered=UNANSWERED, send_timeout_secs=inf)
        self.memory = self._context.__enter__()
        for port in PORTS.values():
            self.memory.instances[port] = lambda peer: peer.start(max_concurrent_streams=4)
        self.calls: list[CallModel] = []
        self.memory.connect(plain=plain, joins=joins)

    # What there is to act on

    def _clients(self) -> list[H2Peer]:
        return [peer for peer in self.memory.clients if not peer.closed]

    def _instances(self) -> list[H2Peer]:
        return [peer for _, peer in self.memory.backends if not peer.closed]

    def _at_instance(self, call: CallModel) -> tuple[H2Peer, PeerStream] | None:
        """The attempt of a call that an instance has and may still act on, if there is one."""
        for _, peer in self.memory.backends:
            for stream in peer.streams.values():
                asked = stream.heads and stream.heads[0].get("x-call") == str(call.number)
                if asked and self._acts(peer, stream):
                    return peer, stream
        return None

    @staticmethod
    def _acts(peer: H2Peer, stream: PeerStream) -> bool:
        return not peer.closed and stream.reset is None and stream.id <= peer.last

    def _pick(self, calls: list[CallModel], data: st.DataObject) -> CallModel | None:
        return data.draw(st.sampled_from(calls), "call") if calls else None

    def _answering(self, data: st.DataObject) -> tuple[CallModel, H2Peer, PeerStream] | None:
        ready = [c for c in self.calls if not c.finished and self._at_instance(c)]
        call = self._pick(ready, data)
        found = self._at_instance(call) if call else None
        return (call, *found) if call and found else None

    # What clients do

    @precondition(lambda self: len(self._clients()) < 3)
    @rule(plain=st.booleans(), joins=st.booleans())
    def connect(self, plain: bool, joins: bool) -> None:
        self.memory.connect(plain=plain, joins=joins)

    @precondition(lambda self: self._clients())
    @rule(data=st.data(), name=st.sampled_from("ab"), unary=st.booleans(), timed=st.booleans())
    def call(self, data: st.DataObject, name: str, unary: bool, timed: bool) -> None:
        client = data.draw(st.sampled_from(self._clients()), "client")
        call = CallModel(len(self.calls), client, name, unary, timed)
        self.calls.append(call)
        if unary:
            call.ask(data.draw(SIZES, "octets"))

    @rule(data=st.data(), size=SIZES)
    def ask(self, data: st.DataObject, size: int) -> None:
        if call := self._pick([call for call in self.calls if call.open], data):
            call.ask(size)

    @rule(data=st.data(), size=st.sampled_from([0, 9, 500]), count=st.integers(2, 6))
    def ask_often(self, data: st.DataObject, size: int, count: int) -> None:
        """Send some small messages at once, a frame each."""
        for_many = [call for call in self.calls if call.open and not call.unary]
        if call := self._pick(for_many, data):
            for _ in range(count):
                call.ask(size)

    @rule(data=st.data())
    def half_close(self, data: st.DataObject) -> None:
        if call := self._pick([call for call in self.calls if call.open], data):
            call.half_closed = True
            call.client.send(call.stream, b"", True)
            if not call.questions:
                call.may.add(Code.INVALID_ARGUMENT)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = [c for c in self.calls if not (c.stream.over or c.client.closed)]
        if call := self._pick(live, data):
            call.cancelled = True
            call.client.reset(call.stream, frames.ErrorCode.CANCEL)

    @precondition(lambda self: len(self._clients()) > 1)
    @rule(data=st.data())
    def drop_client(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self._clients()), "client")
        client.wire.cut(ConnectionResetError())
        for call in self.calls:
            call.cancelled = call.cancelled or call.client is client

    # What instances do

    @rule(data=st.data(), size=SIZES, count=st.sampled_from([1, 1, 1, 4]))
    def answer(self, data: st.DataObject, size: int, count: int) -> None:
        if found := self._answering(data):
            call, peer, stream = found
            if not call.answers:
                peer.answer(stream)
            call.guessed |= count > min(call.questions - call.answers, UNANSWERED)
            for _ in range(count):
                message = framed(bytes([call.number % 256]) * size)
                call.told += message
                call.answers += 1
                peer.send(stream, message)

    @rule(data=st.data(), size=SIZES)
    def answer_whole(self, data: st.DataObject, size: int) -> None:
        """Say all of it in one write, as servers of unary calls do."""
        if found := self._answering(data):
            self._answer_whole(*found, size)

    @precondition(lambda self: self._clients())
    @rule(data=st.data(), name=st.sampled_from("ab"), count=st.integers(1, 4))
    def serve(self, data: st.DataObject, name: str, count: int) -> None:
        """Make some unary calls one after the other and answer each, as nearly all calls go."""
        client = data.draw(st.sampled_from(self._clients()), "client")
        for _ in range(count):
            call = CallModel(len(self.calls), client, name, True, False)
            self.calls.append(call)
            call.ask(9)
            self.memory.settle()
            if found := self._at_instance(call):
                self._answer_whole(call, *found, 9)
                self.memory.settle()

    @staticmethod
    def _answer_whole(call: CallModel, peer: H2Peer, stream: PeerStream, size: int) -> None:
        if not call.answers:
            peer.answer(stream)
        message = framed(bytes([call.number % 256]) * size)
        call.told += message
        call.answers += 1
        peer.send(stream, message, [("grpc-status", "0"), ("x-end", "of it")])
        call.may.add(0)
        call.finished = True

    @rule(data=st.data(), status=st.sampled_from([0, 0, 0, 3, 8, 13]))
    def finish(self, data: st.DataObject, status: int) -> None:
        if found := self._answering(data):
            call, peer, stream = found
            if not call.answers:
                peer.answer(stream)
            peer.send(stream, b"", [("grpc-status", str(status)), ("x-end", "of it")])
            call.may.add(status)
            call.finished = True

    @rule(data=st.data(), code=RESETS)
    def refuse(self, data: st.DataObject, code: int) -> None:
        if found := self._answering(data):
            call, peer, stream = found
            peer.reset(stream, code)
            call.may |= {from_reset(code), Code.UNAVAILABLE}
            # Refused before an answer it may come a second time, and is a new call to the instance.
            call.finished = code != frames.ErrorCode.REFUSED_STREAM or bool(call.answers)

    @precondition(lambda self: self._instances())
    @rule(data=st.data(), keep=st.booleans())
    def say_goodbye(self, data: st.DataObject, keep: bool) -> None:
        peer = data.draw(st.sampled_from(self._instances()), "instance")
        peer.goaway(max(peer.streams, default=0) if keep else max(peer.begun, default=0))
        for call in self.calls:
            call.may.add(Code.UNAVAILABLE)

    @precondition(lambda self: self._instances())
    @rule(data=st.data())
    def cut_instance(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self._instances()), "instance").wire.cut(ConnectionResetError())
        for call in self.calls:
            call.may.add(Code.UNAVAILABLE)

    # What happens to both

    @rule(data=st.data(), reads=st.booleans())
    def stall(self, data: st.DataObject, reads: bool) -> None:
        peers = [*self._clients(), *self._instances()]
        if peers:
            data.draw(st.sampled_from(peers), "peer").reads = reads

    @precondition(lambda self: self._instances())
    @rule(data=st.data(), gives=st.booleans())
    def busy(self, data: st.DataObject, gives: bool) -> None:
        """Let an instance give no credit for what it gets, as one whose queue is full."""
        data.draw(st.sampled_from(self._instances()), "instance").credits = gives

    @precondition(lambda self: self._clients())
    @rule(data=st.data(), name=st.sampled_from("ab"))
    def fill(self, data: st.DataObject, name: str) -> None:
        """Ask an instance for more than it takes, until calls to come get another connection."""
        for peer in self._instances():
            peer.credits = False
        self.call(data, name, unary=False, timed=False)
        for _ in range(4):
            self.calls[-1].ask(20_000)
        self.wait(1.5)

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0]))
    def wait(self, seconds: float) -> None:
        self.memory.advance(seconds)
        for call in self.calls:  # an instance that does not read answers no PING
            call.may.add(Code.UNAVAILABLE)

    # What holds

    @invariant()
    def everyone_has_what_was_said_to_him(self) -> None:
        self.memory.settle()
        for call in self.calls:
            assert call.told.startswith(bytes(call.stream.body))
            found = self._at_instance(call)
            if found is None:
                continue
            peer, stream = found
            if (call.cancelled or call.stream.over) and peer.reads:
                assert call.finished, "the instance goes on with a call that is over"
            assert call.asked.startswith(bytes(stream.body))
            if self._flows(call, peer):
                assert stream.body == call.asked, "the rest is held back"

    def _flows(self, call: CallModel, peer: H2Peer) -> bool:
        live = not (call.stream.over or call.cancelled or call.finished or call.client.closed)
        few = call.questions - call.answers <= UNANSWERED
        few &= not call.guessed
        return live and few and peer.reads and peer.credits and call.client.reads

    @invariant()
    def a_status_is_one_that_may_be(self) -> None:
        for call in self.calls:
            if call.status is not None:
                assert call.status in call.may, f"{call.status} {call.stream.heads[-1]}"
                if call.status == 0:
                    assert call.stream.body == call.told
                    assert call.stream.heads[-1]["x-end"] == "of it"

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        try:
            self._end_well()
        finally:
            self._context.__exit__(None, None, None)

    def _end_well(self) -> None:
        for peer in [*self._clients(), *self._instances()]:
            peer.reads = peer.credits = True
        self.memory.settle()
        for call in self.calls:
            if call.open:
                call.half_closed = True
                call.client.send(call.stream, b"", True)
                call.may |= {Code.INVALID_ARGUMENT, Code.UNAVAILABLE}
        self._finish_calls()
        self.a_status_is_one_that_may_be()
        for call in self.calls:
            assert call.cancelled or call.status is not None, f"no end of call {call.number}"
        assert self.memory.leftovers() == {}

    def _finish_calls(self) -> None:
        """Have instances end what they have; each end may let further calls come."""
        for _ in range(len(self.calls) + 1):
            self.memory.settle()
            for call in self.calls:
                found = self._at_instance(call)
                if found and not call.finished:
                    found[0].send(found[1], b"", [("grpc-status", "0"), ("x-end", "of it")])
                    if not call.answers:
                        found[0].answer(found[1])
                    call.may.add(0)
                    call.finished = True
            self.memory.advance(1)


@pytest.mark.timeout(600)
def test_no_call_is_lost_mixed_up_or_held_for_ever() -> None:
    with shortcuts_taken() as taken:
        run_state_machine_as_test(CallMachine, settings=MACHINE)
    assert min(taken.values()) > 0, taken
