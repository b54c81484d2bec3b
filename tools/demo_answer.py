"""One answer of a model through the multiplexer, as a person reads it, for each kind of model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import grpc

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

TEXT = "Hello world"
QUERY = "What is the capital of France?"
TEXTS = ["Berlin is in Germany.", "Paris is the capital of France.", "Bread is made of flour."]


def answer(grpc_port: int, instance: str) -> str:
    """Return the lines that tell what a running instance says to a text.

    Args:
        grpc_port: The multiplexer's.
        instance: Its name.

    Raises:
        grpc.RpcError: It does not answer.
    """
    # Where a proxy is set for the way out, gRPC would take it for loopback addresses too.
    options = [("grpc.enable_http_proxy", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}", options) as channel:
        grpc.channel_ready_future(channel).result(timeout=10)
        stub = mux_grpc.TeiMultiplexerStub(channel)
        target = mux_pb2.Target(instance_name=instance)
        kind = stub.Info(mux_pb2.InfoRequest(target=target), timeout=60).model_type
        return _ANSWERS[kind](stub, target)


def _embedding(stub: Any, target: mux_pb2.Target) -> str:
    """Return numbers and length of an embedding, or what is largest in one that is sparse."""
    inner = tei_pb2.EmbedRequest(inputs=TEXT, truncate=True, normalize=True)
    request = mux_pb2.EmbedRequest(target=target, request=inner)
    started = time.perf_counter()
    try:
        numbers = list(stub.Embed(request, timeout=60).embeddings)
    except grpc.RpcError as error:
        if "SPLADE" not in str(error):
            raise
        return _sparse(stub, target)
    took = time.perf_counter() - started
    return embedding_text(numbers, took)


def embedding_text(numbers: list[float], seconds: float) -> str:
    """Return the two lines that tell of an embedding."""
    first = ", ".join(f"{number:.6f}" for number in numbers[:6])
    length = math.sqrt(math.fsum(number * number for number in numbers))
    summary = f"{len(numbers)} numbers, length {length:.6f}, in {seconds * 1000:.1f} ms"
    return f'"{TEXT}" -> {summary}\n[{first}, ...]'


def _sparse(stub: Any, target: mux_pb2.Target) -> str:
    inner = tei_pb2.EmbedSparseRequest(inputs=TEXT, truncate=True)
    found = stub.EmbedSparse(mux_pb2.EmbedSparseRequest(target=target, request=inner), timeout=60)
    rows = sorted(found.sparse_embeddings, key=lambda row: row.value, reverse=True)
    largest = ", ".join(f"{row.index}: {row.value:.4f}" for row in rows[:6])
    return f'"{TEXT}" -> {len(rows)} weights that are not zero\n[{largest}, ...]'


def _labels(stub: Any, target: mux_pb2.Target) -> str:
    inner = tei_pb2.PredictRequest(inputs=TEXT, truncate=True)
    found = stub.Predict(mux_pb2.PredictRequest(target=target, request=inner), timeout=60)
    rows = (f"{row.label}: {row.score:.4f}" for row in found.predictions)
    return f'"{TEXT}" -> {", ".join(rows)}'


def _ranking(stub: Any, target: mux_pb2.Target) -> str:
    inner = tei_pb2.RerankRequest(query=QUERY, texts=TEXTS, truncate=True)
    found = stub.Rerank(mux_pb2.RerankRequest(target=target, request=inner), timeout=60)
    lines = (f"{rank.score:.4f}  {TEXTS[rank.index]}" for rank in found.ranks)
    return "\n".join([f'"{QUERY}" ->', *lines])


_ANSWERS: dict[int, Callable[[Any, mux_pb2.Target], str]] = {
    tei_pb2.MODEL_TYPE_EMBEDDING: _embedding,
    tei_pb2.MODEL_TYPE_CLASSIFIER: _labels,
    tei_pb2.MODEL_TYPE_RERANKER: _ranking,
}
