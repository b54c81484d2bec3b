from __future__ import annotations

import json
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

SECONDS = 10

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"12345678"
PONG = b"\x00\x00\x08\x06\x01\x00\x00\x00\x00" + b"12345678"
GOAWAY = 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_open_watches_and_the_process_with_0(
    number: signal.Signals, make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    engine = start_engine(directory)
    with grpc.insecure_channel(engine.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="tei.v1.Embed"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        engine.process.send_signal(number)
        assert [answer.status for answer in watch] == [health_pb2.HealthCheckResponse.NOT_SERVING]
    assert engine.process.wait(SECONDS) == 0


def test_a_stream_under_way_is_finished_before_the_process_ends(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    engine = start_engine(directory)
    with grpc.insecure_channel(engine.address) as channel:
        watch: Any = health_pb2_grpc.HealthStub(channel)
        closing = watch.Watch(health_pb2.HealthCheckRequest())
        next(closing)
        stub: Any = tei_pb2_grpc.EmbedStub(channel)

        under_way = threading.Event()

        def requests() -> Any:
            yield tei_pb2.EmbedRequest(inputs="a")
            assert under_way.wait(SECONDS)
            engine.process.terminate()
            # The watch's last message: the engine has begun to stop.
            next(closing)
            yield tei_pb2.EmbedRequest(inputs="b")

        answers = stub.EmbedStream(requests())
        next(answers)
        under_way.set()
        assert len(list(answers)) == 1
    assert engine.process.wait(SECONDS) == 0


def _raw(channel: Any) -> Any:
    return channel.stream_stream("/tei.v1.Embed/EmbedStream")


def test_a_second_signal_ends_a_stream_that_nobody_finishes(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    engine = start_engine(directory)
    with grpc.insecure_channel(engine.address) as channel:
        watch: Any = health_pb2_grpc.HealthStub(channel)
        closing = watch.Watch(health_pb2.HealthCheckRequest())
        next(closing)
        call = _raw(channel)(iter(lambda: b"", None))
        engine.process.terminate()
        next(closing)
        engine.process.terminate()
        assert engine.process.wait(SECONDS) == 0
        call.cancel()


def test_frequent_pings_without_calls_are_answered_and_never_punished(
    minilm_address: str,
) -> None:
    host, _, port = minilm_address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as client:
        client.sendall(PREFACE + SETTINGS + PING * 50)
        received = b""
        while received.count(PONG) < 50:
            received += client.recv(65536)
        frames = _frame_types(received)
    assert GOAWAY not in frames


def _frame_types(data: bytes) -> list[int]:
    types = []
    while len(data) >= 9:
        types.append(data[3])
        data = data[9 + int.from_bytes(data[:3], "big") :]
    return types


def test_the_log_can_be_json(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    engine = start_engine(directory, "--json-output")
    engine.process.terminate()
    out, _ = engine.process.communicate(timeout=SECONDS)
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["level"], line["message"]) for line in lines] == [("INFO", "Stopping")]


@pytest.mark.asyncio
async def test_the_asynchronous_client_gets_the_same_bytes(minilm_address: str) -> None:
    request = tei_pb2.EmbedRequest(inputs="Hello world")
    with grpc.insecure_channel(minilm_address) as channel:
        stub: Any = tei_pb2_grpc.EmbedStub(channel)
        expected = stub.Embed(request).embeddings
    async with grpc.aio.insecure_channel(minilm_address) as channel:
        stub = tei_pb2_grpc.EmbedStub(channel)
        assert (await stub.Embed(request)).embeddings == expected
        answers = [answer.embeddings async for answer in stub.EmbedStream(iter([request] * 3))]
    assert answers == [expected] * 3
