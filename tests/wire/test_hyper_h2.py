"""Both roles against hyper-h2, which raises where we break the protocol and shares no code."""

from __future__ import annotations

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire_pair import IDLE, REQUEST, Recorder, Side, reply

from tei_manager.wire.frames import ErrorCode

WINDOW = h2.settings.SettingCodes.INITIAL_WINDOW_SIZE
TABLE = h2.settings.SettingCodes.HEADER_TABLE_SIZE
FIELDS = [(name.decode(), value.decode()) for name, value in REQUEST]
ANSWER = [(":status", "200"), ("content-type", "application/grpc")]


class Oracle:
    """A hyper-h2 connection joined to a side; sends bodies as windows allow, and reads bodies."""

    def __init__(self, side: Side) -> None:
        self.side = side
        config = h2.config.H2Configuration(client_side=not side.connection.client)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.bodies: dict[int, bytearray] = {}
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}
        self.fields: dict[int, list[dict[bytes, bytes]]] = {}
        self.unread: dict[int, int] = {}
        self.reads = True
        self.goodbye: int | None = None
        self._sending: dict[int, tuple[bytes, int, list[tuple[str, str]] | None]] = {}
        self.exchange()

    def exchange(self) -> None:
        """Carry octets both ways until all is quiet."""
        while True:
            self._send()
            octets, theirs = self.h2.data_to_send(), self.side.take()
            if not octets and not theirs:
                return
            if octets:
                self.side.feed(octets)
            for event in self.h2.receive_data(theirs) if theirs else ():
                self._note(event)

    def send_body(
        self, stream_id: int, body: bytes, trailers: Any = None, padding: int = 0
    ) -> None:
        """Send a body and its end, now or when windows allow."""
        self._sending[stream_id] = (body, padding, trailers)

    def read(self) -> None:
        """Take all that waits, and give credit for it."""
        for stream_id, octets in self.unread.items():
            self.h2.acknowledge_received_data(octets, stream_id)
        self.unread.clear()

    def _send(self) -> None:
        for stream_id, (body, padding, trailers) in list(self._sending.items()):
            room = self.h2.local_flow_control_window(stream_id)
            room = min(room, self.h2.max_outbound_frame_size) - (padding + 1 if padding else 0)
            while body and room > 0:
                self.h2.send_data(stream_id, body[:room], pad_length=padding or None)
                body = body[room:]
                room = min(self.h2.local_flow_control_window(stream_id), 16_384) - padding - 1
            self._sending[stream_id] = (body, padding, trailers)
            if not body:
                del self._sending[stream_id]
                if trailers is None:
                    self.h2.end_stream(stream_id)
                else:
                    self.h2.send_headers(stream_id, trailers, end_stream=True)

    def _note(self, event: h2.events.Event) -> None:
        stream_id = getattr(event, "stream_id", 0) or 0
        if isinstance(event, h2.events.DataReceived):
            self.bodies.setdefault(stream_id, bytearray()).extend(event.data)
            if self.reads:
                self.h2.acknowledge_received_data(event.flow_controlled_length, stream_id)
            else:
                waiting = self.unread.get(stream_id, 0)
                self.unread[stream_id] = waiting + event.flow_controlled_length
        elif isinstance(event, h2.events.StreamEnded):
            self.ended.add(stream_id)
            if not self.h2.config.client_side:
                self.h2.send_headers(stream_id, ANSWER)
                body = bytes(self.bodies.get(stream_id, b""))
                self.send_body(stream_id, body, [("grpc-status", "0")])
        elif isinstance(event, h2.events.StreamReset):
            self.resets[stream_id] = event.error_code
            self._sending.pop(stream_id, None)
        elif isinstance(event, h2.events.ConnectionTerminated):
            self.goodbye = event.error_code
        elif headers := getattr(event, "headers", None):
            self.fields.setdefault(stream_id, []).append(dict(headers))


def echo(call: Recorder) -> None:
    reply(call, call.body)


# Sizes, not bodies: a failing script stays readable.
sizes = st.one_of(st.integers(0, 40), st.integers(0, 200_000))
asking = st.tuples(st.just("ask"), sizes, st.integers(0, 255))
turning = st.one_of(
    st.tuples(st.just("window"), st.sampled_from([0, 1000, 16_384, 65_535, 1 << 20])),
    st.tuples(st.just("table"), st.sampled_from([0, 64, 4096, 8192])),
    st.tuples(st.just("ping")),
    st.tuples(st.just("reading"), st.booleans()),
    st.tuples(st.just("exchange")),
)
scripts = st.lists(asking | turning, max_size=12)


def a_body(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + bytes(size % 256)


def change(oracle: Oracle, key: h2.settings.SettingCodes, value: int) -> None:
    """Change a setting once the last change is acknowledged.

    An ACK makes hyper-h2 apply one pending value of *each* setting, so with two changes under way
    it would apply the second before we have seen it.
    """
    oracle.exchange()
    oracle.h2.update_settings({key: value})


def turn(oracle: Oracle, step: tuple[Any, ...]) -> None:
    """Do a step that is no call."""
    if step[0] == "window":
        change(oracle, WINDOW, step[1])
    elif step[0] == "table":
        change(oracle, TABLE, step[1])
    elif step[0] == "ping":
        oracle.h2.ping(b"12345678")
    elif step[0] == "reading":
        oracle.reads = step[1]
        oracle.read()
    else:
        oracle.exchange()


def finish(oracle: Oracle) -> None:
    """Let everything through that was held back."""
    # More than any body: hyper-h2 forgets credit that it saved up while a window was larger.
    change(oracle, WINDOW, 1 << 20)
    oracle.reads = True
    for _ in range(2):
        oracle.exchange()
        oracle.read()
    oracle.exchange()
    assert oracle.goodbye is None


@settings(deadline=None)
@given(scripts)
def test_a_hyper_h2_client_gets_every_echo_whatever_it_does_with_its_windows(
    script: list[tuple[Any, ...]],
) -> None:
    side = Side(client=False, answer=echo)
    oracle = Oracle(side)
    asked: dict[int, bytes] = {}
    for step in script:
        if step[0] == "ask":
            stream_id = oracle.h2.get_next_available_stream_id()
            oracle.h2.send_headers(stream_id, [*FIELDS, ("x-call", str(len(asked)))])
            asked[stream_id] = a_body(step[1])
            oracle.send_body(stream_id, asked[stream_id], padding=step[2])
        else:
            turn(oracle, step)
    finish(oracle)
    assert {n: bytes(oracle.bodies.get(n, b"")) for n in asked} == asked
    assert oracle.ended == set(asked)
    assert all(oracle.fields[n][-1] == {b"grpc-status": b"0"} for n in asked)
    assert side.state() == IDLE


@settings(deadline=None)
@given(scripts)
def test_our_client_gets_every_echo_from_a_hyper_h2_server(script: list[tuple[Any, ...]]) -> None:
    side = Side(client=True)
    oracle = Oracle(side)
    asked: list[tuple[Recorder, bytes]] = []
    for step in script:
        if step[0] == "ask":
            call = side.open()
            body, half = a_body(step[1]), step[1] // 2
            side.connection.send_data(call.stream, body[:half], False)
            side.connection.send_data(call.stream, body[half:], True)
            asked.append((call, body))
        else:
            turn(oracle, step)
    finish(oracle)
    assert [call.body for call, _ in asked] == [body for _, body in asked]
    assert all(call.trailers.grpc_status == 0 for call, _ in asked)
    assert side.state() == IDLE


@settings(deadline=None)
@given(st.lists(st.sampled_from(["reset", "answer", "broken", "ping"]), max_size=20))
def test_resets_from_either_end_leave_the_connection_and_its_neighbours_alone(
    script: list[str],
) -> None:
    side = Side(client=False, answer=None)
    oracle = Oracle(side)
    for step in script:
        stream_id = oracle.h2.get_next_available_stream_id()
        oracle.h2.send_headers(stream_id, FIELDS)
        oracle.h2.send_data(stream_id, b"x" * 1000)
        oracle.exchange()
        call = side.calls[-1]
        if step == "reset":
            oracle.h2.reset_stream(stream_id, ErrorCode.CANCEL)
            oracle.exchange()
            assert call.reset == ErrorCode.CANCEL
        elif step == "answer":
            oracle.h2.send_data(stream_id, b"on its way")
            reply(call)
            oracle.exchange()
            assert oracle.fields[stream_id][-1] == {b"grpc-status": b"0"}
            assert oracle.resets[stream_id] == ErrorCode.NO_ERROR
        elif step == "broken":
            oracle.h2.send_headers(stream_id, [("x", "y")], end_stream=True)
            side.connection.reset(call.stream, ErrorCode.INTERNAL_ERROR)
            oracle.exchange()
            assert oracle.resets[stream_id] == ErrorCode.INTERNAL_ERROR
        else:
            oracle.h2.ping(b"12345678")
            oracle.h2.reset_stream(stream_id, ErrorCode.CANCEL)
    oracle.exchange()
    assert oracle.goodbye is None
    assert not side.connection.closing
    assert side.state() | {"slots": 0} == IDLE


def test_a_list_of_63_kb_in_one_header_is_told_to_the_caller_alone() -> None:
    side = Side(client=False, answer=reply)
    oracle = Oracle(side)
    for value in ("v" * 63_000, "v"):
        stream_id = oracle.h2.get_next_available_stream_id()
        oracle.h2.send_headers(stream_id, [*FIELDS, ("x-long", value)], end_stream=True)
        oracle.exchange()
    refused, served = side.calls
    assert refused.head.refusal is not None
    assert served.head.refusal is None
    assert oracle.ended == {1, 3}


def test_a_goodbye_reaches_the_handler_and_no_call() -> None:
    side = Side(client=True)
    oracle = Oracle(side)
    call = side.open()
    oracle.exchange()
    oracle.h2.close_connection(ErrorCode.ENHANCE_YOUR_CALM, b"calm", last_stream_id=1)
    side.feed(oracle.h2.data_to_send())
    assert side.log[-1] == ("goaway", 1, ErrorCode.ENHANCE_YOUR_CALM, b"calm")
    assert side.connection.going
    assert call.reset is None


@pytest.mark.parametrize("client", [True, False])
def test_a_megabyte_arrives_whole_through_windows_of_64_kib(client: bool) -> None:
    body = bytes(range(256)) * 4096
    side = Side(client=client, answer=echo)
    oracle = Oracle(side)
    if client:
        call = side.open()
        side.connection.send_data(call.stream, body, True)
        oracle.exchange()
        assert (call.body, call.trailers.grpc_status) == (body, 0)
    else:
        oracle.h2.send_headers(1, FIELDS)
        oracle.send_body(1, body)
        oracle.exchange()
        assert bytes(oracle.bodies[1]) == body
    assert side.state() == IDLE
