"""M2: a client's connection under any server; see `connection_machine` for how it is judged."""

from __future__ import annotations

import pytest
from connection_machine import MAX_STREAMS, SIZES, WINDOWS, ConnectionMachine
from connection_model import State
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule, run_state_machine_as_test
from machine_settings import MACHINE
from memory_switch import PeerStream
from wire_pair import BODY, Recorder, Side

from tei_manager.wire.frames import DATA, HEADERS, RST_STREAM, ErrorCode, goaway


class ClientMachine(ConnectionMachine):
    client = True

    @initialize(window=WINDOWS)
    def begin(self, window: int) -> None:
        self.start(Side(client=True), window)

    def _answering(self, begun: bool) -> list[PeerStream]:
        """Streams on which the server may still send, with their head sent or not."""
        live = self.states.all_in(State.OPEN)
        streams = [self.peer.streams[number] for number in live]
        return [stream for stream in streams if stream.answered == begun and not stream.sending]

    def _asking(self) -> list[Recorder]:
        live = self.connection.streams
        return [
            call
            for call in self.side.calls
            if call.stream.id in live and not (call.stream.local_closed or call.stream.end_queued)
        ]

    @precondition(lambda self: self.alive and not self.connection.going)
    @precondition(lambda self: len(self.connection.streams) < MAX_STREAMS)
    @rule(end=st.booleans())
    def ask(self, end: bool) -> None:
        self.side.open(end)
        self.exchange()

    @precondition(lambda self: self.alive and self._asking())
    @rule(data=st.data(), parts=st.integers(0, 5), end=st.booleans())
    def send_data(self, data: st.DataObject, parts: int, end: bool) -> None:
        call = data.draw(st.sampled_from(self._asking()), "call")
        for _ in range(parts):
            self.connection.send_data(call.stream, BODY * 500, False)
        # hyper-h2 refuses an empty frame in a window that it has shrunk below nothing, which
        # RFC 9113 6.9.1 allows; so nothing ends there.
        if end and call.stream.send_window >= 0:
            self.connection.send_data(call.stream, b"", True)
        self.exchange()

    @precondition(lambda self: self.alive and self._asking())
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self._asking()), "call")
        self.connection.reset(call.stream, ErrorCode.CANCEL)
        self.exchange()

    @precondition(lambda self: self.alive and self._answering(False))
    @rule(data=st.data(), interim=st.booleans())
    def answer(self, data: st.DataObject, interim: bool) -> None:
        stream = data.draw(st.sampled_from(self._answering(False)), "stream")
        if interim:
            self.peer.h2.send_headers(stream.id, [(":status", "103")])
            self.exchange()
        else:
            self.peer.answer(stream)
            self.legal(HEADERS, stream.id, False)

    @precondition(lambda self: self.alive and self._answering(True))
    @rule(data=st.data(), size=SIZES, end=st.booleans())
    def send_body(self, data: st.DataObject, size: int, end: bool) -> None:
        stream = data.draw(st.sampled_from(self._answering(True)), "stream")
        self.peer.send(stream, bytes(size), end or None)
        self.legal(DATA, stream.id, end)

    @precondition(lambda self: self.alive and self._answering(True))
    @rule(data=st.data())
    def end_with_trailers(self, data: st.DataObject) -> None:
        stream = data.draw(st.sampled_from(self._answering(True)), "stream")
        self.peer.send(stream, b"", [("grpc-status", "0")])
        self.legal(HEADERS, stream.id, True)

    @precondition(lambda self: self.alive and self.states.all_in(State.OPEN, State.ENDED))
    @rule(data=st.data(), code=st.sampled_from([0, 2, 7, 8, 0xFFFF]))
    def refuse(self, data: st.DataObject, code: int) -> None:
        live = self.states.all_in(State.OPEN, State.ENDED)
        stream = self.peer.streams[data.draw(st.sampled_from(live), "stream")]
        self.peer.reset(stream, code)
        self.legal(RST_STREAM, stream.id, False)

    @precondition(lambda self: self.alive)
    @rule(last=st.sampled_from([0, 1, (1 << 31) - 1]))
    def say_goodbye(self, last: int) -> None:
        self.wire.deliver(goaway(last, ErrorCode.NO_ERROR))
        assert self.side.log[-1] == ("goaway", last, 0, b"")
        assert self.connection.closing == (not self.connection.streams)


@pytest.mark.timeout(600)
def test_a_client_keeps_to_the_table_of_states_whatever_comes() -> None:
    run_state_machine_as_test(ClientMachine, settings=MACHINE)
