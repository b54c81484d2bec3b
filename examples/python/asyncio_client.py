"""Embeds texts with grpcio's asyncio API: one call, a stream, and an error that is handled.

    python asyncio_client.py [ADDRESS [INSTANCE]]

The address is localhost:9001 unless it is given, the instance minilm.
"""

from __future__ import annotations

import asyncio
import sys

import grpc
import grpc.aio
from embedding import ADDRESS, DEADLINE, INSTANCE, OPTIONS, TEXT, TEXTS, request, show

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc


async def embed(stub: mux_grpc.TeiMultiplexerAsyncStub, instance: str) -> None:
    """Embed one text by one call."""
    show(TEXT, await stub.Embed(request(TEXT, instance), timeout=DEADLINE))


async def embed_stream(stub: mux_grpc.TeiMultiplexerAsyncStub, instance: str) -> None:
    """Embed several texts by one call; the answers come in the order of the texts."""
    requests = (request(text, instance) for text in TEXTS)
    answers = stub.EmbedStream(requests, timeout=DEADLINE)
    texts = iter(TEXTS)
    async for answer in answers:
        show(next(texts), answer)


async def embed_nowhere(stub: mux_grpc.TeiMultiplexerAsyncStub) -> None:
    """Call an instance that there is not: the code says what to do, the details what is wrong."""
    try:
        await stub.Embed(request(TEXT, "no-such-instance"), timeout=DEADLINE)
    except grpc.aio.AioRpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        print("NOT_FOUND:", error.details())


async def main(address: str = ADDRESS, instance: str = INSTANCE) -> None:
    """Make all calls on one channel."""
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        await embed(stub, instance)
        await embed_stream(stub, instance)
        await embed_nowhere(stub)


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except grpc.aio.AioRpcError as failure:
        sys.exit(f"{failure.code().name}: {failure.details()}")
