"""M1: a server's connection under any client; see `connection_machine` for how it is judged."""

from __future__ import annotations

import pytest
from connection_machine import MAX_STREAMS, SIZES, WINDOWS, ConnectionMachine
from connection_model import State
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test
from machine_settings import MACHINE
from wire_pair import BODY, OK_HEAD, OK_TRAILERS, Recorder, Side

from tei_manager.wire.frames import DATA, HEADERS, RST_STREAM, ErrorCode
from tei_manager.wire.stream import NOBODY


class ServerMachine(ConnectionMachine):
    @initialize(window=WINDOWS)
    def begin(self, window: int) -> None:
        self.start(Side(client=False, answer=None, max_streams=MAX_STREAMS), window)

    def _asking(self) -> list[int]:
        """Streams on which the client may still send."""
        return [n for n in self.states.all_in(State.OPEN) if n in self.peer.streams]

    def _unanswered(self) -> list[Recorder]:
        live = self.connection.streams
        calls = [call for call in self.side.calls if live.get(call.stream.id) is call.stream]
        return [call for call in calls if not call.stream.queue and not call.stream.local_closed]

    @precondition(lambda self: self.alive and len(self.connection.streams) < MAX_STREAMS)
    @rule(end=st.booleans())
    def ask(self, end: bool) -> None:
        if self.connection.slots < MAX_STREAMS:
            stream = self.peer.call("/a/b", end=end)
            self.legal(HEADERS, stream.id, end)

    @precondition(lambda self: self.alive and self._asking())
    @rule(data=st.data(), size=SIZES, end=st.booleans())
    def send_data(self, data: st.DataObject, size: int, end: bool) -> None:
        stream = self.peer.streams[data.draw(st.sampled_from(self._asking()), "stream")]
        if not stream.sending:
            self.peer.send(stream, bytes(size), end or None)
            self.legal(DATA, stream.id, end)

    @precondition(lambda self: self.alive and self._asking())
    @rule(data=st.data())
    def send_trailers(self, data: st.DataObject) -> None:
        stream = self.peer.streams[data.draw(st.sampled_from(self._asking()), "stream")]
        self.peer.send(stream, b"", [("x-trailer", "1")])
        self.legal(HEADERS, stream.id, True)

    @precondition(lambda self: self.alive and self.states.all_in(State.OPEN, State.ENDED))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        live = self.states.all_in(State.OPEN, State.ENDED)
        stream = self.peer.streams[data.draw(st.sampled_from(live), "stream")]
        self.peer.reset(stream, ErrorCode.CANCEL)
        self.legal(RST_STREAM, stream.id, False)

    @precondition(lambda self: self.alive and self._unanswered())
    @rule(data=st.data(), parts=st.integers(0, 5))
    def answer(self, data: st.DataObject, parts: int) -> None:
        call = data.draw(st.sampled_from(self._unanswered()), "call")
        self.connection.send_headers(call.stream, OK_HEAD, False)
        for _ in range(parts):
            self.connection.send_data(call.stream, BODY * 500, False)
        self.connection.send_headers(call.stream, OK_TRAILERS, True)
        self._over(call)

    @precondition(lambda self: self.alive and self._unanswered())
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(self._unanswered()), "call")
        self.connection.reset(call.stream, ErrorCode.INTERNAL_ERROR)
        self._over(call)

    def _over(self, call: Recorder) -> None:
        """Turn away from a call, whose answer may still wait for the client's windows."""
        call.stream.owner = NOBODY
        self.side.over(call)
        self.exchange()

    @invariant()
    def slots_are_calls_that_are_not_over(self) -> None:
        assert 0 <= self.connection.slots <= MAX_STREAMS


@pytest.mark.timeout(600)
def test_a_server_keeps_to_the_table_of_states_whatever_comes() -> None:
    run_state_machine_as_test(ServerMachine, settings=MACHINE)
