"""What the programs beside this one ask for, how they connect, and how they show an answer."""

from __future__ import annotations

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2

ADDRESS = "localhost:9001"
INSTANCE = "minilm"
TEXT = "Hello world"
TEXTS = ("The first text", "the second", "and a third one")

DEADLINE = 10.0
"""Seconds that a call may take; it travels to the instance."""

OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),  # a ping after 30 s without traffic
    ("grpc.keepalive_timeout_ms", 10_000),  # dead if there is no answer for 10 s
    ("grpc.keepalive_permit_without_calls", 1),  # also while no call is under way
    ("grpc.http2.max_pings_without_data", 0),  # as many in a row as it takes
    ("grpc.max_receive_message_length", 64 << 20),  # EmbedAll answers pass grpcio's 4 MiB
)


def request(text: str, instance: str) -> mux_pb2.EmbedRequest:
    """Return the question for the vector of a text, addressed to an instance."""
    target = mux_pb2.Target(instance_name=instance)
    return mux_pb2.EmbedRequest(target=target, request=tei_pb2.EmbedRequest(inputs=text))


def show(text: str, answer: tei_pb2.EmbedResponse) -> None:
    """Print how long the vector of a text is, and how it begins."""
    print(f"{text} -> {len(answer.embeddings)} numbers, the first {answer.embeddings[0]:.4f}")
