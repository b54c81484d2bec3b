"""A program as users write it; `test_stubs` has mypy check it, strictly. It is never run."""

from __future__ import annotations

import grpc
import grpc.aio

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc


def request(text: str) -> mux_pb2.EmbedRequest:
    return mux_pb2.EmbedRequest(
        target=mux_pb2.Target(instance_name="bge-small"),
        request=tei_pb2.EmbedRequest(inputs=text, truncate=True, normalize=True),
    )


def embed(channel: grpc.Channel) -> list[float]:
    stub = mux_grpc.TeiMultiplexerStub(channel)
    numbers = list(stub.Embed(request("a"), timeout=5, metadata=(("k", "v"),)).embeddings)
    for answer in stub.EmbedStream(iter([request("b")])):
        numbers.extend(answer.embeddings)
    return numbers


def what_for(channel: grpc.Channel) -> str:
    target = mux_pb2.Target(model="BAAI/bge-small-en-v1.5")
    info = mux_grpc.TeiMultiplexerStub(channel).Info(mux_pb2.InfoRequest(target=target))
    return "vectors" if info.model_type == tei_pb2.MODEL_TYPE_EMBEDDING else info.model_id


async def embed_async(channel: grpc.aio.Channel) -> list[float]:
    stub = mux_grpc.TeiMultiplexerStub(channel)
    numbers = list((await stub.Embed(request("a"), timeout=5)).embeddings)
    async for answer in stub.EmbedStream(iter([request("b")])):
        numbers.extend(answer.embeddings)
    native = await tei_pb2_grpc.EmbedStub(channel).Embed(tei_pb2.EmbedRequest(inputs="c"))
    return numbers + list(native.embeddings)


class Embed(tei_pb2_grpc.EmbedServicer):
    def Embed(  # noqa: N802 - the name in the .proto
        self, request: tei_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> tei_pb2.EmbedResponse:
        metadata = tei_pb2.Metadata(compute_chars=len(request.inputs))
        return tei_pb2.EmbedResponse(embeddings=[1.0], metadata=metadata)


def serve(server: grpc.Server, aio_server: grpc.aio.Server) -> None:
    tei_pb2_grpc.add_EmbedServicer_to_server(Embed(), server)
    tei_pb2_grpc.add_EmbedServicer_to_server(Embed(), aio_server)
