"""Embeds the lines of its input on one stream, and goes on where a lost connection ended it.

    python streaming_client.py [ADDRESS [INSTANCE]] < texts.txt

The address is localhost:9001 unless it is given, the instance minilm.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Sequence

import grpc
from embedding import ADDRESS, INSTANCE, OPTIONS, request, show

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

DEADLINE = 60.0
"""Seconds that all texts together may take."""


def embed(
    stub: mux_grpc.TeiMultiplexerStub, texts: Sequence[str], instance: str
) -> Iterator[tei_pb2.EmbedResponse]:
    """Yield the vector of each text in order; embedding changes nothing, so it can be repeated."""
    deadline = time.monotonic() + DEADLINE
    done = 0
    while done < len(texts):
        requests = (request(text, instance) for text in texts[done:])
        try:
            for answer in stub.EmbedStream(requests, timeout=deadline - time.monotonic()):
                done += 1
                yield answer
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(random.uniform(0.1, 0.5))  # not all clients at once


def main(address: str = ADDRESS, instance: str = INSTANCE) -> None:
    """Show each vector as soon as it comes."""
    texts = [line.strip() for line in sys.stdin if line.strip()]
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = mux_grpc.TeiMultiplexerStub(channel)
        for text, answer in zip(texts, embed(stub, texts, instance), strict=True):
            show(text, answer)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except grpc.RpcError as failure:
        sys.exit(f"{failure.code().name}: {failure.details()}")
