"""Embeds texts with grpcio's blocking API: one call, a stream, and an error that is handled.

    python sync_client.py [ADDRESS [INSTANCE]]

The address is localhost:9001 unless it is given, the instance minilm.
"""

from __future__ import annotations

import sys

import grpc
from embedding import ADDRESS, DEADLINE, INSTANCE, OPTIONS, TEXT, TEXTS, request, show

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc


def embed(stub: mux_grpc.TeiMultiplexerStub, instance: str) -> None:
    """Embed one text by one call."""
    show(TEXT, stub.Embed(request(TEXT, instance), timeout=DEADLINE))


def embed_stream(stub: mux_grpc.TeiMultiplexerStub, instance: str) -> None:
    """Embed several texts by one call; the answers come in the order of the texts."""
    requests = (request(text, instance) for text in TEXTS)
    answers = stub.EmbedStream(requests, timeout=DEADLINE)
    for text, answer in zip(TEXTS, answers, strict=True):
        show(text, answer)


def embed_nowhere(stub: mux_grpc.TeiMultiplexerStub) -> None:
    """Call an instance that there is not: the code says what to do, the details what is wrong."""
    try:
        stub.Embed(request(TEXT, "no-such-instance"), timeout=DEADLINE)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        print("NOT_FOUND:", error.details())


def main(address: str = ADDRESS, instance: str = INSTANCE) -> None:
    """Make all calls on one channel."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        embed(stub, instance)
        embed_stream(stub, instance)
        embed_nowhere(stub)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as failure:
        sys.exit(f"{failure.code().name}: {failure.details()}")
