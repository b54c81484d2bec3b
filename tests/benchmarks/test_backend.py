"""The stand-in for TEI, seen by a client made of h2, which checks windows and header blocks."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator

import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest

from benchmarks import load
from benchmarks.answers import VALUES, answer
from benchmarks.calls import LARGE_ANSWER, SMALL_ANSWER, embed_message
from benchmarks.peers import Peer
from benchmarks.processes import free_port, running

SECONDS = 60
SMALL, LARGE = embed_message("a" + SMALL_ANSWER), embed_message("a" + LARGE_ANSWER)
REQUEST = [(":method", "POST"), (":scheme", "http"), (":path", "/any"), (":authority", "a")]


class Caller:
    """Makes one call at a time, and gives windows back as answers come."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration())
        self.connection.initiate_connection()
        self.seen: list[h2.events.Event] = []
        self.data = bytearray()

    def begin(self) -> int:
        stream_id = self.connection.get_next_available_stream_id()
        self.connection.send_headers(stream_id, REQUEST)
        self.flush()
        return stream_id

    def send(self, stream_id: int, data: bytes, end: bool = False) -> None:
        self.connection.send_data(stream_id, data, end_stream=end)
        self.flush()

    def flush(self) -> None:
        self.socket.sendall(self.connection.data_to_send())

    def answered(self, octets: int) -> bytes:
        """Return what is answered next, once it is so long."""
        while len(self.data) < octets:
            self.receive()
        answered, self.data = bytes(self.data), bytearray()
        return answered

    def ended(self) -> list[h2.events.Event]:
        """Return all that came, once the call has ended."""
        while not any(isinstance(event, h2.events.StreamEnded) for event in self.seen):
            self.receive()
        return self.seen

    def receive(self) -> None:
        data = self.socket.recv(1 << 16)
        assert data, "the connection was closed"
        for event in self.connection.receive_data(data):
            self.seen.append(event)
            if isinstance(event, h2.events.DataReceived):
                self.data += event.data
                size = event.flow_controlled_length
                self.connection.acknowledge_received_data(size, event.stream_id)
        self.flush()


@pytest.fixture
def caller(backend: Peer) -> Iterator[Caller]:
    made = Caller(backend.port)
    yield made
    made.socket.close()


def test_a_call_is_answered_with_teis_headers_a_vector_and_status_0(caller: Caller) -> None:
    stream_id = caller.begin()
    caller.send(stream_id, SMALL, end=True)
    head, trailers = (
        event.headers
        for event in caller.ended()
        if isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived)
    )
    assert [name for name, _ in head] == [b":status", *(name.encode() for name, _ in VALUES[0])]
    assert dict(trailers) == {b"grpc-status": b"0"}


def test_a_long_answer_keeps_to_the_windows_of_the_one_who_asked(caller: Caller) -> None:
    caller.send(caller.begin(), LARGE, end=True)
    assert caller.answered(len(answer(LARGE_ANSWER))) == answer(LARGE_ANSWER)
    assert any(isinstance(event, h2.events.TrailersReceived) for event in caller.ended())


def test_a_message_is_answered_once_it_is_whole_however_it_is_cut(caller: Caller) -> None:
    stream_id, small = caller.begin(), answer(SMALL_ANSWER)
    caller.send(stream_id, SMALL + SMALL[:7])
    assert caller.answered(len(small)) == small
    caller.send(stream_id, SMALL[7:] + SMALL + SMALL)
    assert caller.answered(3 * len(small)) == 3 * small
    caller.send(stream_id, b"", end=True)
    assert any(isinstance(event, h2.events.TrailersReceived) for event in caller.ended())


def test_long_messages_get_their_window_back(caller: Caller) -> None:
    stream_id, message = caller.begin(), embed_message("x" * 3_000_000 + SMALL_ANSWER)
    while message:
        size = min(caller.connection.local_flow_control_window(stream_id), 16_384)
        if size:
            caller.send(stream_id, message[:size])
            message = message[size:]
        else:
            caller.receive()
    assert caller.answered(len(answer(SMALL_ANSWER))) == answer(SMALL_ANSWER)


def test_a_service_time_is_waited_by_all_calls_at_once_and_loses_no_answer() -> None:
    port, service_us = free_port(), 50_000
    argv = [sys.executable, "-m", "benchmarks.backend", str(port), str(service_us)]
    with running(argv, port) as pid:
        stub = Peer("stub", port, (pid,))
        calls, stream = load.closed(stub, 40, 20), load.messages(stub, 1, 100)
    assert min(calls.fastest_us, stream.fastest_us) >= service_us
    assert calls.per_second > 1e6 / service_us, "one after the other"
