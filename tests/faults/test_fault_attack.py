"""An attacker says truly how its connection ended."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.faults import attack as attack_module
from benchmarks.faults.attack import FrameReader, attack
from benchmarks.faults.floods import Flood
from benchmarks.faults.instance import backend
from benchmarks.faults.requests import HELLO, call
from tei_manager.wire import frames

PINGS = Flood("pings", lambda _: frames.ping(b"12345678"), 1, 40)
CALM = frames.goaway(0, frames.ErrorCode.ENHANCE_YOUR_CALM)


@contextmanager
def listening(act: Callable[[socket.socket], None]) -> Iterator[int]:
    """Let a thread do something with one connection, which it closes then."""

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.settimeout(30)
            act(connection)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        thread.join(30)
        assert not thread.is_alive()


def read_to_the_end(connection: socket.socket) -> bytes:
    data = b""
    while part := connection.recv(65_536):
        data += part
    return data


def test_a_goaway_with_an_error_ends_an_attack_though_the_connection_stands() -> None:
    def act(connection: socket.socket) -> None:
        connection.sendall(frames.settings({}) + frames.rst_stream(1, 8) + CALM)
        read_to_the_end(connection)

    with listening(act) as port:
        (ending,) = attack(port, PINGS, 1)
    assert (ending.how, ending.ended, ending.resets) == ("GOAWAY 11", True, 1)


def test_a_connection_that_is_closed_without_a_word_is_closed() -> None:
    with listening(lambda connection: None) as port:
        (ending,) = attack(port, PINGS, 1)
    assert (ending.how, ending.ended) == ("closed", True)


def test_a_goaway_without_blame_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_module, "LINGER_SECONDS", 0.05)

    def act(connection: socket.socket) -> None:
        connection.sendall(frames.goaway(0, 0))
        read_to_the_end(connection)

    with listening(act) as port:
        (ending,) = attack(port, PINGS, 1)
    assert (ending.how, ending.ended) == ("GOAWAY 0, kept", False)


@pytest.mark.parametrize("reads", [True, False])
def test_a_server_that_takes_everything_has_got_everything(
    monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr(attack_module, "LINGER_SECONDS", 0.05)
    got = []
    flood = Flood("pings", PINGS.unit, 1, PINGS.count, reads=reads)
    with listening(lambda connection: got.append(read_to_the_end(connection))) as port:
        (ending,) = attack(port, flood, 1)
    assert (ending.how, ending.ended, ending.frames) == ("kept", False, flood.count)
    assert got == [flood.hello + b"".join(flood.units())]


def test_a_goaway_is_found_by_an_attacker_that_did_not_read() -> None:
    def act(connection: socket.socket) -> None:
        connection.sendall(frames.settings({}) + CALM)

    flood = Flood("pings", PINGS.unit, 1, 100_000, reads=False)
    with listening(act) as port:
        (ending,) = attack(port, flood, 1)
    assert ending.ended
    assert ending.how in ("GOAWAY 11", "closed")  # the kernel may drop what was not read


@given(st.lists(st.integers(1, 60), min_size=1))
def test_frames_are_counted_however_they_are_cut(cuts: list[int]) -> None:
    octets = (frames.settings({}) + frames.rst_stream(1, 8) + frames.ping(bytes(8)) + CALM) * 3
    reader = FrameReader()
    while octets:
        size = cuts[len(octets) % len(cuts)]
        reader.feed(octets[:size])
        octets = octets[size:]
    assert reader.kinds == {frames.SETTINGS: 3, frames.RST_STREAM: 3, frames.PING: 3, 7: 3}
    assert reader.goaway == frames.ErrorCode.ENHANCE_YOUR_CALM


def test_the_backend_tells_of_a_call_and_of_the_client_that_left_it() -> None:
    with backend() as instance:
        with socket.create_connection(("127.0.0.1", instance.port)) as client:
            client.sendall(HELLO + call(1, "do:hold"))
            began = instance.next("call", 30)
        left = instance.next("reset", 30)
    assert began["command"] == left["command"] == "hold"
    assert began["at"] <= left["at"]
