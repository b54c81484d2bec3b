"""A client of TEI itself on port 9001: its address and one metadata entry are all that change.

    python native_client.py [ADDRESS [INSTANCE]]

It speaks ``tei.v1`` and knows nothing of the multiplexer; ``x-tei-instance`` chooses the instance.
"""

from __future__ import annotations

import sys

import grpc
from embedding import ADDRESS, DEADLINE, INSTANCE, OPTIONS, TEXT, TEXTS, show

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

Metadata = tuple[tuple[str, str], ...]


def embed(stub: tei_pb2_grpc.EmbedStub, to: Metadata) -> None:
    """Embed one text by one call."""
    request = tei_pb2.EmbedRequest(inputs=TEXT)
    show(TEXT, stub.Embed(request, timeout=DEADLINE, metadata=to))


def embed_stream(stub: tei_pb2_grpc.EmbedStub, to: Metadata) -> None:
    """Embed several texts by one call; the answers come in the order of the texts."""
    requests = (tei_pb2.EmbedRequest(inputs=text) for text in TEXTS)
    answers = stub.EmbedStream(requests, timeout=DEADLINE, metadata=to)
    for text, answer in zip(TEXTS, answers, strict=True):
        show(text, answer)


def embed_nowhere(stub: tei_pb2_grpc.EmbedStub) -> None:
    """Call an instance that there is not: the code says what to do, the details what is wrong."""
    try:
        embed(stub, (("x-tei-instance", "no-such-instance"),))
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.NOT_FOUND:
            raise
        print("NOT_FOUND:", error.details())


def main(address: str = ADDRESS, instance: str = INSTANCE) -> None:
    """Make all calls on one channel."""
    to = (("x-tei-instance", instance),)
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = tei_pb2_grpc.EmbedStub(channel)
        embed(stub, to)
        embed_stream(stub, to)
        embed_nowhere(stub)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as failure:
        sys.exit(f"{failure.code().name}: {failure.details()}")
