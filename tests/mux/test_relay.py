"""What travels between a client and an instance, both ways, and what does not."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from fake_tei import HEADERS, UNARY, fake_tei
from multiplexer import embed, multiplexer, multiplexer_process, path

from tei_manager.grpc.methods import METHODS, Kind, Method
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2

RELAYED = [method for method in METHODS.values() if method.kind is not Kind.CLIENT_STREAM]
TARGET = mux_pb2.Target(instance_name="a").SerializeToString()


def question(method: Method, text: str) -> bytes:
    """A request of the instance's own service, with fields that we do not know."""
    request: Any
    match method.name.removesuffix("Stream"):
        case "Info":
            return b""
        case "PredictPair":
            request = tei_pb2.PredictPairRequest(inputs=[text, text])
        case "Rerank":
            request = tei_pb2.RerankRequest(query=text, texts=["x", "y"])
        case "Decode":
            request = tei_pb2.DecodeRequest(ids=[7, 70_000])
        case _:
            request = tei_pb2.EmbedRequest(inputs=text)
    return bytes(request.SerializeToString()) + b"\xa2\x06\x05later"


def wrap(request: bytes, target: bytes = TARGET) -> bytes:
    """What a client sends to the multiplexer for a request: field 1, field 2."""
    return bytes(
        mux_pb2.EmbedRequest(target=mux_pb2.Target.FromString(target)).SerializeToString()
    ) + b"\x12" + bytes((len(request),)) + request


async def exchange(channel: grpc.aio.Channel, to: str, messages: list[bytes]) -> list[bytes]:
    call = channel.stream_stream(to)(iter(messages))
    return [message async for message in call]


@pytest.mark.asyncio
@pytest.mark.parametrize("method", RELAYED, ids=lambda method: method.name)
async def test_an_answer_has_the_bytes_of_the_instance_asked_directly(method: Method) -> None:
    texts = ["one"] if method.kind is Kind.UNARY else ["one", "two words", "drei"]
    direct = [question(method, text) for text in texts]
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{tei.port}") as channel:
            expected = await exchange(channel, method.backend_path, direct)
        asked = [wrap(m) for m in direct] if method.name != "Info" else [b"\x0a" + bytes((len(TARGET),)) + TARGET]
        assert await exchange(mux.channel(), method.path, asked) == expected
        assert [call.messages for call in tei.calls] == [direct, direct]
        await mux.settled()
