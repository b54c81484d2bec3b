"""Clients of TEI itself: the services of ``tei.v1`` on the same port, routed by metadata."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
import grpc.aio
import pytest
from fake_tei import UNARY, answer, fake_tei
from multiplexer import Multiplexer, multiplexer, table

from tei_manager.grpc.methods import NATIVE, Kind, Method
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.grpc.status import StatusError
from tei_manager.mux.director import Director
from tei_manager.routes import Route, RouteState, RouteTable

pytestmark = pytest.mark.asyncio

TO_A = (("x-tei-instance", "a"),)


def message(method: Method) -> bytes:
    if method.name == "Info":
        return b""
    if method.name.startswith("PredictPair"):
        return tei_pb2.PredictPairRequest(inputs=["one", "two"]).SerializeToString()
    return tei_pb2.EmbedRequest(inputs="some text").SerializeToString()


async def call(
    mux: Multiplexer, method: Method, messages: list[bytes], metadata: Any = TO_A
) -> list[bytes]:
    stub: Any = mux.channel().stream_stream(
        method.path, request_serializer=bytes, response_deserializer=bytes
    )
    return [reply async for reply in stub(iter(messages), metadata=metadata, timeout=10)]


async def refusal(mux: Multiplexer, data: bytes, metadata: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(mux, NATIVE["/tei.v1.Embed/Embed"], [data], metadata)
    return caught.value.code(), caught.value.details() or ""


@pytest.mark.parametrize(
    "method", [m for m in NATIVE.values() if m.kind is not Kind.CLIENT_STREAM], ids=lambda m: m.name
)
async def test_every_method_answers_with_the_instances_bytes(method: Method) -> None:
    count = 1 if method.name in UNARY else 5
    async with fake_tei() as tei, multiplexer(("a", tei.port), ("b", 1)) as mux:
        replies = await call(mux, method, [message(method)] * count)
        seen = await tei.call()
        assert replies == [answer(1, method.name, message(method))] * count
        assert seen.method == method.path
        assert seen.messages == [message(method)] * count
        assert not seen.values("x-tei-instance")
        await mux.settled()


async def test_rerank_stream_is_made_of_predictions_here_too() -> None:
    method = NATIVE["/tei.v1.Rerank/RerankStream"]
    texts = ("x", "xxx", "xx")
    requests = [tei_pb2.RerankStreamRequest(query="q", text=text) for text in texts]
    async with fake_tei() as tei, multiplexer(("a", tei.port), ("b", 1)) as mux:
        (reply,) = await call(mux, method, [request.SerializeToString() for request in requests])
        ranks = tei_pb2.RerankResponse.FromString(reply).ranks
        assert [rank.index for rank in ranks] == [1, 2, 0]


async def test_a_direction_that_tei_dies_of_is_refused() -> None:
    data = tei_pb2.EmbedRequest(inputs="text").SerializeToString() + b"\x20\x07"
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        code, text = await refusal(mux, data, TO_A)
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "truncation_direction 7" in text
        await mux.settled()
        assert not any(call.messages for call in tei.calls)


async def test_a_call_that_does_not_say_where_is_told_how_to() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port), ("b", 1)) as mux:
        code, text = await refusal(mux, b"", ())
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "x-tei-instance" in text


ROUTES = (
    Route("a", "org/m", port=1, ordinal=0),
    Route("b", "org/n", port=2, ordinal=1, state=RouteState.STOPPED),
    Route("c", "org/m", port=3, ordinal=2),
)


@pytest.mark.parametrize(
    ("targets", "default", "expected"),
    [
        ({b"x-tei-instance": b"c"}, "", "c"),
        ({b"x-tei-instance": b"c", b"x-tei-model": b"org/n", b"x-tei-index": b"0"}, "a", "c"),
        ({b"x-tei-index": b"1"}, "a", "c"),
        ({}, "c", "c"),
        ({b"x-tei-instance": b""}, "a", "INVALID_ARGUMENT: x-tei-instance is empty"),
        ({b"x-tei-instance": b"d"}, "a", "NOT_FOUND: Instance 'd' not found"),
        ({b"x-tei-index": b"-1"}, "a", "INVALID_ARGUMENT: x-tei-index is not a number"),
        ({b"x-tei-index": b"2"}, "a", "NOT_FOUND: No running instance has index 2; 2 run"),
        ({b"x-tei-model": b"org/n"}, "", "UNAVAILABLE: No instance of model 'org/n' is running"),
        ({}, "b", "UNAVAILABLE: Instance 'b' is not running (status: stopped)"),
    ],
)
async def test_the_target_is_the_first_that_is_given(
    targets: dict[bytes, bytes], default: str, expected: str
) -> None:
    director = Director(lambda route: 0)
    director.apply(RouteTable(1, ROUTES, default))
    try:
        found = director.native(targets).name
    except StatusError as error:
        found = str(error)
    assert found == expected


TEI_CLIENT = """
import sys
from tei_client import GrpcClient
client = GrpcClient(sys.argv[1])
print(client.info().version, len(client.embed("Hello world")[0]))
"""


async def test_the_independent_client_works_with_nothing_but_another_address() -> None:
    async with fake_tei() as tei, multiplexer(*table(("a", tei.port)).routes) as mux:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", TEI_CLIENT, f"127.0.0.1:{mux.port}"),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await asyncio.wait_for(process.communicate(), 20)
        assert output.decode().split() == ["1.8", "4"]
