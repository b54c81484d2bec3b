"""The main job on real input: the packaged model, the real manager, ordinary grpcio clients.

What goes through the multiplexer is held against what the instance answers when it is asked
directly, byte for byte but for the times that it measures, and against vectors that were computed
from the published weights by an independent forward pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
import psutil
import pytest

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

VECTORS = Path(__file__).parents[1] / "engine" / "data" / "minilm_vectors.json"
START_LIMIT, STOP_LIMIT = 120, 60

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]

pytestmark = pytest.mark.timeout(240)

CONFIG = """
[api]
port = {api}
[grpc]
multiplexer_port = {grpc}
[instances]
log_dir = "{folder}/logs"
[state]
path = "{folder}/state.db"
[[instance]]
name = "minilm"
model_id = "all-MiniLM-L6-v2"
backend = "engine"
[[instance]]
name = "resting"
model_id = "all-MiniLM-L6-v2"
backend = "engine"
autostart = false
"""


class Served(NamedTuple):
    """A manager that runs: where its two ports are, and where the instance itself is."""

    api: str
    grpc: str
    instance: str


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)
        ]
        return [server.getsockname()[1] for server in servers]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("manager")
    api, mux = free_ports(2)
    config = folder / "manager.toml"
    config.write_text(CONFIG.format(api=api, grpc=mux, folder=folder), "utf-8")
    argv = [sys.executable, "-m", "tei_manager", "serve", "--config", str(config)]
    process = subprocess.Popen(argv, env=os.environ | {"XDG_CACHE_HOME": str(folder / "cache")})
    try:
        address = await_running(f"http://127.0.0.1:{api}", process)
        yield Served(f"http://127.0.0.1:{api}", f"127.0.0.1:{mux}", address)
    finally:
        stop(process)


def await_running(api: str, process: subprocess.Popen[bytes]) -> str:
    """Return the address of the instance once it runs."""
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            instance = httpx.get(f"{api}/instances/minilm", trust_env=False).json()
            assert instance.get("status") != "failed", instance
            if instance.get("status") == "running":
                return str(instance["address"])
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)
    pytest.fail(f"the instance does not run; the manager's exit code is {process.poll()}")


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    process.wait(STOP_LIMIT)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.fixture(scope="module")
def channel(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.grpc, UNLIMITED) as opened:
        yield opened


@pytest.fixture(scope="module")
def direct(served: Served) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served.instance, UNLIMITED) as opened:
        yield opened


def target(name: str = "minilm") -> mux_pb2.Target:
    return mux_pb2.Target(instance_name=name)


def embed(text: str, **fields: Any) -> mux_pb2.EmbedRequest:
    inner = tei_pb2.EmbedRequest(inputs=text, truncate=True, **fields)
    return mux_pb2.EmbedRequest(target=target(), request=inner)


def cosine(one: Iterable[float], other: Iterable[float]) -> float:
    pairs = list(zip(one, other, strict=True))
    dot = sum(x * y for x, y in pairs)
    return dot / math.sqrt(sum(x * x for x, _ in pairs) * sum(y * y for _, y in pairs))


def untimed(message: Any) -> bytes:
    """Return a message's bytes without the times, which differ from call to call."""
    for name in ("total_time_ns", "tokenization_time_ns", "queue_time_ns", "inference_time_ns"):
        if hasattr(message, "metadata"):
            message.metadata.ClearField(name)
    return bytes(message.SerializeToString(deterministic=True))


TEXT = "The quick brown fox — 日本語 — jumps 🦊 over [SEP]"
IDS = [101, 7592, 2088, 102]

# (method, the inner request): all RPCs that an embedding model serves.
UNARY: dict[str, Any] = {
    "Embed": tei_pb2.EmbedRequest(inputs=TEXT, truncate=True, normalize=False),
    "EmbedAll": tei_pb2.EmbedAllRequest(inputs=TEXT),
    "Tokenize": tei_pb2.EncodeRequest(inputs=TEXT, add_special_tokens=True),
    "Decode": tei_pb2.DecodeRequest(ids=IDS, skip_special_tokens=True),
}
STREAMS: dict[str, list[Any]] = {
    "EmbedStream": [tei_pb2.EmbedRequest(inputs=TEXT[:n]) for n in range(1, 40)],
    "EmbedAllStream": [tei_pb2.EmbedAllRequest(inputs=TEXT[:n]) for n in range(1, 40)],
    "TokenizeStream": [tei_pb2.EncodeRequest(inputs=TEXT[:n]) for n in range(1, 40)],
    "DecodeStream": [tei_pb2.DecodeRequest(ids=IDS[:n]) for n in range(1, 5)],
}
# What the model does not serve has TEI's own status, and it comes through as it is.
REFUSED: dict[str, Any] = {
    "EmbedSparse": tei_pb2.EmbedSparseRequest(inputs=TEXT),
    "Predict": tei_pb2.PredictRequest(inputs=TEXT),
    "PredictPair": tei_pb2.PredictPairRequest(inputs=[TEXT, TEXT]),
    "Rerank": tei_pb2.RerankRequest(query=TEXT, texts=[TEXT]),
}
_SERVICES = {"Tokenize": "Tokenize", "Decode": "Tokenize", "Predict": "Predict", "Rerank": "Rerank"}


def wrapped(method: str, inner: Any) -> Any:
    kind = getattr(mux_pb2, type(inner).DESCRIPTOR.name)
    assert method
    return kind(target=target(), request=inner)


def direct_stub(method: str, channel: grpc.Channel) -> Any:
    name = method.removesuffix("Stream").removesuffix("Pair")
    service = _SERVICES.get(name, "Embed")
    return getattr(getattr(tei_pb2_grpc, f"{service}Stub")(channel), method)


def vectors() -> list[tuple[str, list[float]]]:
    document = json.loads(VECTORS.read_text("utf-8"))
    return [(row["text"], row["vector"]) for row in document["rows"]]


@pytest.mark.parametrize(("text", "expected"), vectors())
def test_an_embedding_through_9001_is_that_of_the_published_weights(
    channel: grpc.Channel, text: str, expected: list[float]
) -> None:
    answer = mux_grpc.TeiMultiplexerStub(channel).Embed(embed(text, normalize=True), timeout=20)
    assert cosine(answer.embeddings, expected) >= 0.99999


@pytest.mark.parametrize("method", UNARY)
def test_a_unary_answer_is_the_instances_own(
    channel: grpc.Channel, direct: grpc.Channel, method: str
) -> None:
    through, call = getattr(mux_grpc.TeiMultiplexerStub(channel), method).with_call(
        wrapped(method, UNARY[method]), timeout=20
    )
    straight, other = direct_stub(method, direct).with_call(UNARY[method], timeout=20)
    assert untimed(through) == untimed(straight)
    names = [{key for key, _ in one.initial_metadata()} for one in (call, other)]
    assert names[0] == names[1]


def test_info_is_the_instances_own(channel: grpc.Channel, direct: grpc.Channel) -> None:
    request = mux_pb2.InfoRequest(target=target())
    through = mux_grpc.TeiMultiplexerStub(channel).Info(request, timeout=20)
    straight = tei_pb2_grpc.InfoStub(direct).Info(tei_pb2.InfoRequest(), timeout=20)
    assert through.SerializeToString() == straight.SerializeToString()
    assert through.max_input_length == 256


@pytest.mark.parametrize("method", STREAMS)
def test_a_streams_answers_are_the_instances_own_in_order(
    channel: grpc.Channel, direct: grpc.Channel, method: str
) -> None:
    requests = STREAMS[method]
    stub = getattr(mux_grpc.TeiMultiplexerStub(channel), method)
    through = list(stub((wrapped(method, inner) for inner in requests), timeout=60))
    straight = list(direct_stub(method, direct)(iter(requests), timeout=60))
    assert [untimed(answer) for answer in through] == [untimed(answer) for answer in straight]
    assert len(through) == len(requests)


@pytest.mark.asyncio
async def test_asyncio_clients_get_the_same(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.grpc, UNLIMITED) as opened:
        stub: Any = mux_grpc.TeiMultiplexerStub(opened)
        one: Any = await stub.Embed(embed(TEXT), timeout=20)
        requests = [embed(TEXT)] * 20
        many = [answer async for answer in stub.EmbedStream(iter(requests), timeout=20)]
    assert [untimed(answer) for answer in many] == [untimed(one)] * 20


@pytest.mark.parametrize("method", REFUSED)
def test_what_the_model_does_not_serve_has_its_own_status(
    channel: grpc.Channel, direct: grpc.Channel, method: str
) -> None:
    errors = []
    calls = (
        (getattr(mux_grpc.TeiMultiplexerStub(channel), method), wrapped(method, REFUSED[method])),
        (direct_stub(method, direct), REFUSED[method]),
    )
    for call, request in calls:
        with pytest.raises(grpc.RpcError) as caught:
            call(request, timeout=20)
        errors.append((caught.value.code(), caught.value.details()))
    assert errors[0] == errors[1]
    assert errors[0][0] is grpc.StatusCode.FAILED_PRECONDITION


def no_target() -> mux_pb2.EmbedRequest:
    return mux_pb2.EmbedRequest(request=tei_pb2.EmbedRequest(inputs="a"))


def named(name: str) -> mux_pb2.EmbedRequest:
    inner = tei_pb2.EmbedRequest(inputs="a")
    return mux_pb2.EmbedRequest(target=target(name), request=inner)


BAD = {
    "unknown name": (named("nobody"), grpc.StatusCode.NOT_FOUND, "Instance 'nobody' not found"),
    "stopped instance": (
        named("resting"),
        grpc.StatusCode.UNAVAILABLE,
        "Instance 'resting' is not running (status: stopped)",
    ),
    "no target": (no_target(), grpc.StatusCode.INVALID_ARGUMENT, "target"),
    "3 MB that may not be truncated": (
        mux_pb2.EmbedRequest(target=target(), request=tei_pb2.EmbedRequest(inputs="x" * 3_000_000)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "`inputs` must have less than 64000 characters. Given: 3000000",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_its_status_and_the_next_call_works(
    channel: grpc.Channel, case: str
) -> None:
    request, code, text = BAD[case]
    stub = mux_grpc.TeiMultiplexerStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Embed(request, timeout=20)
    assert caught.value.code() is code
    assert text in (caught.value.details() or "")
    assert len(stub.Embed(embed("next"), timeout=20).embeddings) == 384


def test_garbage_gets_a_status_and_the_next_call_works(channel: grpc.Channel) -> None:
    raw = channel.unary_unary(
        "/tei_multiplexer.v1.TeiMultiplexer/Embed",
        request_serializer=bytes,
        response_deserializer=bytes,
    )
    with pytest.raises(grpc.RpcError) as caught:
        raw(b"\xff\xff\xff garbage", timeout=20)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    answer = mux_grpc.TeiMultiplexerStub(channel).Embed(embed("next"), timeout=20)
    assert len(answer.embeddings) == 384


def test_three_megabytes_that_may_be_truncated_are_embedded(channel: grpc.Channel) -> None:
    stub = mux_grpc.TeiMultiplexerStub(channel)
    assert len(stub.Embed(embed("long text " * 300_000), timeout=60).embeddings) == 384


def test_two_hundred_streams_at_once_on_one_connection(channel: grpc.Channel) -> None:
    stub = mux_grpc.TeiMultiplexerStub(channel)
    with ThreadPoolExecutor(40) as threads:
        streams = [stub.EmbedStream(iter([embed(str(n))] * 3), timeout=60) for n in range(200)]
        answers: list[list[Any]] = list(threads.map(list, streams))
    assert [len(answer) for answer in answers] == [3] * 200


@pytest.mark.asyncio
async def test_a_client_that_goes_away_leaves_nothing_behind(served: Served) -> None:
    async with grpc.aio.insecure_channel(served.grpc, UNLIMITED) as opened:
        stub: Any = mux_grpc.TeiMultiplexerStub(opened)
        calls = [stub.EmbedStream() for _ in range(20)]
        for call in calls:
            await call.write(embed("begun, never finished"))
            await call.read()
    async with httpx.AsyncClient(trust_env=False) as http, asyncio.timeout(20):
        metrics = ""
        while "tei_grpc_multiplexer_requests_in_flight 0.0" not in metrics:
            metrics = (await http.get(f"{served.api}/metrics")).text
            assert "tei_grpc_multiplexer_requests_in_flight" in metrics
    with grpc.insecure_channel(served.grpc) as again:
        stub = mux_grpc.TeiMultiplexerStub(again)
        assert len(stub.Embed(embed("next"), timeout=20).embeddings) == 384


def test_the_required_metrics_count_what_was_called(served: Served, channel: grpc.Channel) -> None:
    mux_grpc.TeiMultiplexerStub(channel).Embed(embed("counted"), timeout=20)
    wanted = (
        'tei_grpc_pool_connections_total{instance="minilm"}',
        'tei_grpc_pool_requests_total{instance="minilm",method="embed"}',
        'tei_grpc_multiplexer_request_duration_seconds_count{method="embed"}',
    )
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        text = httpx.get(f"{served.api}/metrics", trust_env=False).text
        if all(name in text for name in wanted):
            return
    pytest.fail(f"{wanted} are not all in {text}")
