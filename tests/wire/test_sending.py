"""The sending half: order, windows and progress, whatever comes in between."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wire_pair import IDLE, OK_TRAILERS, Recorder, Side, greeted, parse, request

from tei_manager.wire import frames
from tei_manager.wire.frames import DEFAULT_WINDOW, END_STREAM, ErrorCode
from tei_manager.wire.limits import AbuseBudget
from tei_manager.wire.sending import MAX_QUEUED_CONTROL

STREAMS = (1, 3, 5)

sizes = st.sampled_from([0, 1, 5, 100, 16_384, 16_385, 40_000, 70_000])
which = st.sampled_from(STREAMS)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("data"), which, sizes),
        st.tuples(st.just("end"), which, st.booleans()),
        st.tuples(st.just("credit"), st.sampled_from((0, *STREAMS)), st.integers(1, 100_000)),
        st.tuples(st.just("initial"), st.just(0), st.sampled_from([0, 10, 1000, 65_535, 200_000])),
        st.tuples(st.just("writable"), st.just(0), st.booleans()),
        st.tuples(st.just("reset"), which, st.booleans()),
    ),
    max_size=25,
)


class Patient(AbuseBudget):
    """Counts no window updates."""

    def window_update(self, streams: int, data_frames: int) -> None:
        pass


class Ledger:
    """A sender, what it was given to send, and what the peer allowed."""

    def __init__(self, client: bool) -> None:
        self.side = Side(client=True) if client else greeted(answer=None)
        if client:
            self.side.feed(frames.settings({}))
            self.calls = {call.stream.id: call for call in (self.side.open() for _ in STREAMS)}
        else:
            self.side.feed(b"".join(request(n) for n in STREAMS))
            self.calls = {call.stream.id: call for call in self.side.calls}
        self.side.connection.budget = Patient()
        self.side.take()
        self.given = dict.fromkeys(STREAMS, b"")
        self.sent = dict.fromkeys(STREAMS, b"")
        self.granted = Counter({0: DEFAULT_WINDOW})
        self.initial = DEFAULT_WINDOW
        self.finished: dict[int, str] = {}
        self.over: Counter[int] = Counter()

    def step(self, kind: str, stream_id: int, value: int) -> None:
        """Do one thing to the sender."""
        connection = self.side.connection
        if kind == "credit":
            self.granted[stream_id] += value
            self.side.feed(frames.window_update(stream_id, value))
        elif kind == "initial":
            self.initial = value
            self.side.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: value}))
        elif kind == "writable":
            connection.set_writable(bool(value))
        elif stream_id not in self.finished:
            self._act(kind, self.calls[stream_id], value)

    def _act(self, kind: str, call: Recorder, value: int) -> None:
        connection, number = self.side.connection, call.stream.id
        if kind == "data":
            octets = bytes((number + len(self.given[number]) + i) % 256 for i in range(value))
            self.given[number] += octets
            connection.send_data(call.stream, octets, False)
        elif kind == "end":
            self.finished[number] = "end"
            if value:
                connection.send_data(call.stream, b"", True)
            else:
                connection.send_headers(call.stream, OK_TRAILERS, True)
        else:
            self.finished[number] = "reset"
            connection.reset(call.stream, ErrorCode.CANCEL)

    def look(self) -> None:
        """Take what was sent, and hold it against what was given and allowed."""
        for kind, flags, stream_id, payload in parse(self.side.take()):
            if kind == frames.DATA:
                assert not self.over[stream_id]
                self.sent[stream_id] += payload
                assert not payload or len(self.sent[stream_id]) <= self.room(stream_id)
            if kind in (frames.DATA, frames.HEADERS) and flags & END_STREAM:
                self.over[stream_id] += 1
            assert kind != frames.RST_STREAM or self.finished[stream_id] == "reset"
        assert sum(map(len, self.sent.values())) <= self.granted[0]
        for number in STREAMS:
            assert self.given[number].startswith(self.sent[number])
        queued = sum(call.stream.queued for call in self.calls.values())
        assert self.side.pool.queued == queued

    def room(self, stream_id: int) -> int:
        """What the peer now allows of a stream in all."""
        return self.initial + self.granted[stream_id]

    def progress(self) -> None:
        """Assert that nothing waits which windows and transport allow."""
        connection = self.side.connection
        if not connection.writable:
            return
        for number, call in self.calls.items():
            left = len(self.given[number]) - len(self.sent[number])
            if number not in connection.streams or self.finished.get(number) == "reset":
                continue
            if left and not connection.client:
                window = self.room(number) - len(self.sent[number])
                assert connection.send_window == 0 or window <= 0
                assert call.stream.send_window == window
            elif not left and number in self.finished:
                assert self.over[number] == 1


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@settings(deadline=None)
@given(script=steps)
@example(
    script=[("data", 1, 1), ("data", 3, 70_000), ("initial", 0, 0), ("data", 1, 0), ("end", 1, 0)]
)
@example(
    script=[("data", 1, 1), ("data", 3, 70_000), ("initial", 0, 0), ("end", 1, 1)],
)
def test_any_interleaving_keeps_order_windows_and_progress(
    client: bool, script: list[tuple[Any, ...]]
) -> None:
    ledger = Ledger(client)
    for step in script:
        ledger.step(*step)
        ledger.look()
        ledger.progress()
    ledger.step("writable", 0, True)
    ledger.step("initial", 0, 1 << 24)
    ledger.step("credit", 0, 1 << 24)
    ledger.look()
    for number in STREAMS:
        if ledger.finished.get(number) != "reset":
            assert ledger.sent[number] == ledger.given[number]
        assert ledger.over[number] == (ledger.finished.get(number) == "end")


@settings(deadline=None)
@given(
    st.sampled_from([16_384, 65_535, 1 << 20]),
    st.sampled_from([65_535, 200_000, 1 << 20]),
    st.lists(st.integers(1, 3_000_000), min_size=1, max_size=6),
)
def test_a_backend_that_takes_everything_and_credits_in_halves_gets_everything(
    window: int, connection_window: int, lengths: list[int]
) -> None:
    """Holding streams back must never wait for credit that a lazy peer does not owe yet."""
    side = Side(client=True)
    side.take()
    side.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: window}))
    if connection_window > DEFAULT_WINDOW:
        side.feed(frames.window_update(0, connection_window - DEFAULT_WINDOW))
    for length in lengths:
        side.connection.send_data(side.open().stream, bytes(length), True)
    taken, unpaid = Counter[int](), Counter[int]()
    while sent := [f for f in parse(side.take()) if f.kind == frames.DATA]:
        for frame in sent:
            for number, whole in ((0, connection_window), (frame.stream_id, window)):
                unpaid[number] += len(frame.payload)
                taken[number] += len(frame.payload)
                if unpaid[number] * 2 >= whole:
                    side.feed(frames.window_update(number, unpaid.pop(number)))
    assert [taken[1 + 2 * n] for n in range(len(lengths))] == lengths


def test_ready_streams_are_served_a_frame_each_in_turn() -> None:
    server = greeted(answer=None)
    server.feed(b"".join(request(n) for n in STREAMS))
    server.connection.set_writable(False)
    for call in server.calls:
        server.connection.send_data(call.stream, bytes(20_000), False)
    server.take()
    server.connection.set_writable(True)
    order = [f.stream_id for f in parse(server.take())]
    assert order == [1, 3, 5, 1, 3, 5]


def test_a_stream_held_by_its_own_window_costs_nothing_when_the_connection_gets_credit() -> None:
    server = greeted(answer=None)
    server.feed(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + request(1))
    server.connection.send_data(server.calls[0].stream, b"x", False)
    server.feed(frames.window_update(0, 1))
    assert server.state() | {"queued": 0, "slots": 0, "streams": 0} == IDLE
    server.take()
    server.feed(frames.window_update(1, 1))
    assert parse(server.take()) == [(frames.DATA, 0, 1, b"x")]


def test_control_frames_pass_a_paused_transport_until_it_is_congested() -> None:
    server = greeted(answer=None)
    server.connection.set_writable(False)
    server.feed(frames.ping(bytes(8)) * MAX_QUEUED_CONTROL)
    assert not server.connection.congested
    server.connection.emit(b"one more")
    assert server.connection.congested
    server.connection.set_writable(True)
    assert not server.connection.congested


def test_an_owner_hears_of_queued_octets_that_went_out_and_of_no_others() -> None:
    server = greeted(answer=None)
    server.feed(request(1))
    call = server.calls[0]
    server.connection.send_data(call.stream, b"direct", False)
    assert call.sent_calls == 0
    server.connection.set_writable(False)
    server.connection.send_data(call.stream, b"queued", False)
    server.connection.send_headers(call.stream, OK_TRAILERS, True)
    server.connection.set_writable(True)
    assert call.sent_calls == 1
    kinds = [f.kind for f in parse(server.take())]
    assert kinds == [frames.DATA, frames.DATA, frames.HEADERS]


def test_only_so_many_reset_streams_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tei_manager.wire.sending.RECENT_RESETS", 2)
    server = greeted(answer=None)
    server.feed(b"".join(request(n, end=False) for n in STREAMS))
    for call in list(server.calls):
        server.connection.reset(call.stream, ErrorCode.CANCEL)
    assert list(server.connection.recent_resets) == [3, 5]
