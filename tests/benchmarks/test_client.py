"""No figure comes of a call that failed: every way in which a proxy can fail one raises."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter_ns

import pytest

from benchmarks.answers import TRAILERS, answer
from benchmarks.calls import (
    SMALL_ANSWER,
    STREAM,
    TEXT,
    UNARY,
    CallEncoder,
    data_frame,
    embed_message,
)
from benchmarks.client import Client, LoadError
from benchmarks.load import UNANSWERED, _stream
from benchmarks.peers import Peer
from tei_manager.wire import frames
from tei_manager.wire.frames import DEFAULT_WINDOW, END_HEADERS, END_STREAM, HEADERS, frame
from tei_manager.wire.hpack import literal

SECONDS = 30
GREETING = frames.settings({frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
MESSAGE = embed_message(TEXT + SMALL_ANSWER)
ANSWER = answer(SMALL_ANSWER)
LAST = END_HEADERS | END_STREAM
HEAD = frame(HEADERS, END_HEADERS, 1, b"\x88")
BODY = data_frame(1, ANSWER)
END = frame(HEADERS, LAST, 1, TRAILERS)


@contextmanager
def proxy(answer: bytes, greeting: bytes = GREETING) -> Iterator[tuple[int, bytearray]]:
    """Serve one connection: greet, answer once a message has come, send no more.

    Yields the port, and what the client has sent, all of it once it has closed the connection.
    """
    taken = bytearray()

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(SECONDS)
            connection.sendall(greeting)
            while MESSAGE not in taken and (data := connection.recv(1 << 16)):
                taken.extend(data)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while data := connection.recv(1 << 16):
                taken.extend(data)

    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(SECONDS)
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield server.getsockname()[1], taken
        finally:
            thread.join(SECONDS)
            assert not thread.is_alive()


def at(port: int) -> Peer:
    return Peer("proxy", port, ())


def one_call(port: int) -> Client:
    with Client(at(port)) as client:
        client.begin(perf_counter_ns())
        client.send(CallEncoder(UNARY, MESSAGE).unary(), len(MESSAGE))
        while not client.done:
            client.receive()
        client.verify(1, len(ANSWER))
        return client


def test_a_call_that_is_answered_in_full_is_counted_and_timed() -> None:
    with proxy(HEAD + BODY + END) as (port, _):
        client = one_call(port)
    assert client.done == 1
    assert client.took[0] > 0


def trailers(*fields: tuple[bytes, bytes]) -> bytes:
    return frame(HEADERS, LAST, 1, b"".join(literal(*field) for field in fields))


FAILURES = {
    "a status": (HEAD + BODY + trailers((b"grpc-status", b"14")), "grpc-status"),
    "no status": (HEAD + BODY + trailers((b"x-other", b"0")), "grpc-status"),
    "trailers alone": (trailers((b"grpc-status", b"0")), "octets"),
    "no head": (BODY + END, "heads"),
    "an HTTP error": (frame(HEADERS, END_HEADERS, 1, b"\x8d") + BODY + END, ":status"),
    "a short answer": (HEAD + data_frame(1, ANSWER[:-1]) + END, "octets"),
    "a second answer": (HEAD + BODY + BODY + END, "octets"),
    "DATA at the end": (HEAD + data_frame(1, ANSWER, end=True), "without a status"),
    "a reset": (HEAD + frames.rst_stream(1, 8), "reset"),
    "GOAWAY": (frames.goaway(0, 11), "GOAWAY"),
    "a closed connection": (HEAD + BODY, "closed"),
    "a cut block": (frame(HEADERS, 0, 1, b"\x88") + BODY + END, "not understood"),
}


@pytest.mark.parametrize(("answered", "why"), FAILURES.values(), ids=FAILURES)
def test_a_call_that_failed_gives_no_figure(answered: bytes, why: str) -> None:
    with proxy(answered) as (port, _), pytest.raises(LoadError, match=why):
        one_call(port)


def test_calls_that_were_not_made_are_missed() -> None:
    with proxy(HEAD + BODY + END) as (port, _):
        client = one_call(port)
    with pytest.raises(LoadError, match="1 calls began and 1 ended, not 2"):
        client.verify(2, len(ANSWER))


def test_a_proxy_without_a_dynamic_table_cannot_be_measured() -> None:
    greeting = frames.settings({frames.HEADER_TABLE_SIZE: 0})
    with proxy(b"", greeting) as (port, _), pytest.raises(LoadError, match="no dynamic table"):
        Client(at(port))


def test_settings_and_pings_are_acknowledged() -> None:
    with proxy(frames.ping(b"12345678") + HEAD + BODY + END) as (port, taken):
        one_call(port)
    assert frames.SETTINGS_ACK in taken
    assert frames.ping(b"12345678", ack=True) in taken


def test_windows_are_kept_to_until_they_are_widened() -> None:
    greeting = frames.settings({frames.INITIAL_WINDOW_SIZE: 70_000})
    updates = frames.window_update(0, 100_000) + frames.window_update(1, 5_000)
    with proxy(updates, greeting) as (port, _), Client(at(port)) as client:
        assert client.allowance(1) == DEFAULT_WINDOW
        client.send(data_frame(1, MESSAGE), len(MESSAGE))
        client.spend(1, len(MESSAGE))
        client.receive()
        assert client.allowance(1) == 75_000 - len(MESSAGE)
        assert client.allowance(3) == 70_000


def test_a_stream_sends_no_more_messages_than_may_go_unanswered() -> None:
    with proxy(HEAD) as (port, taken), Client(at(port)) as client:
        with pytest.raises(LoadError, match="closed"):
            _stream(client, CallEncoder(STREAM), 1000)
        client.close()
    assert taken.count(MESSAGE) == UNANSWERED < 256
