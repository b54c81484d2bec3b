"""``tei.v1.Embed``: a text's vector, its tokens' vectors, and its weights for the vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import grpc

from tei_manager.engine.batcher import Inferred
from tei_manager.engine.dense import Dense
from tei_manager.engine.encoder import Array, Output
from tei_manager.engine.kinds import Pooling
from tei_manager.engine.metrics import Metrics
from tei_manager.engine.packed import rows_message, vector_message
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import Input, Pipeline, Work, cut_of
from tei_manager.engine.pooling import TextVectors, finish, finite, token_rows
from tei_manager.engine.refusals import (
    all_of_splade,
    invalid,
    no_embedding,
    no_splade,
    normalized_splade,
)
from tei_manager.engine.rpc import Calls, Handler, Reply, Running
from tei_manager.engine.tokenizer import Direction
from tei_manager.grpc.proto.tei.v1 import tei_pb2

_Request: TypeAlias = tei_pb2.EmbedRequest | tei_pb2.EmbedAllRequest | tei_pb2.EmbedSparseRequest
_Reduce: TypeAlias = Callable[[Output], Array]
_Message: TypeAlias = Callable[[Array, tei_pb2.Metadata], bytes]

# Most EmbedAll answers of one stream that wait for its reader: one of 256 tokens and 384 numbers
# is 0.4 MB, where one of Embed is 1.5 kB.
EMBED_ALL_WINDOW = 32


class EmbedService:
    """Embeddings of one model.

    Args:
        pipeline: The way of a text.
        pooling: How the model's token vectors become one; ``None`` if it does not embed.
        dense: Layers behind the pooling, in order.
        metrics: Counts the texts.
    """

    def __init__(
        self, pipeline: Pipeline, pooling: Pooling | None, dense: Sequence[Dense], metrics: Metrics
    ) -> None:
        self._pipeline = pipeline
        self._pooling = pooling
        self._vectors = TextVectors(pooling, dense) if pooling is not None else None
        self._metrics = metrics

    async def embed(self, request: tei_pb2.EmbedRequest) -> Running:
        """Begin on a text's vector; checks come in TEI's order."""
        cut = cut_of(request.truncate, request.truncation_direction)
        normalize = request.normalize if request.HasField("normalize") else True
        if self._pooling is Pooling.SPLADE and normalize:
            raise normalized_splade()
        dimensions = request.dimensions if request.HasField("dimensions") else None
        if dimensions == 0:
            raise invalid("`dimensions` should be positive")
        if self._vectors is None:
            raise no_embedding()
        reduce = partial(_vector, self._vectors, dimensions, normalize)
        return await self._begin(request, cut, reduce, _embed_message)

    async def embed_all(self, request: tei_pb2.EmbedAllRequest) -> Running:
        """Begin on the vectors of a text's tokens, neither pooled nor normalised."""
        cut = cut_of(request.truncate, request.truncation_direction)
        if self._pooling is Pooling.SPLADE:
            raise all_of_splade()
        if self._pooling is None:
            raise no_embedding()
        return await self._begin(request, cut, _rows, _embed_all_message)

    async def embed_sparse(self, request: tei_pb2.EmbedSparseRequest) -> Running:
        """Begin on a text's weights for the entries of the vocabulary."""
        cut = cut_of(request.truncate, request.truncation_direction)
        if self._pooling is not Pooling.SPLADE or self._vectors is None:
            raise no_splade()
        reduce = partial(_vector, self._vectors, None, False)
        return await self._begin(request, cut, reduce, _embed_sparse_message)

    async def _begin(
        self, request: _Request, cut: Direction | None, reduce: _Reduce, message: _Message
    ) -> Running:
        """Queue a text and say how its answer is made."""
        self._metrics.text_started("embed")
        prompt = request.prompt_name if request.HasField("prompt_name") else None
        work = await self._pipeline.submit(Input(request.inputs, prompt, cut), reduce)
        return Running(work.future, partial(self._reply, work, message))

    def _reply(self, work: Work, message: _Message, inferred: Inferred) -> Reply:
        cost = work.cost(inferred)
        self._metrics.text_succeeded("embed", cost)
        self._metrics.request_took(cost)
        return Reply(message(inferred.values, cost.metadata()), cost)


def _vector(vectors: TextVectors, dimensions: int | None, normalize: bool, output: Output) -> Array:
    return finish(vectors(output), dimensions, normalize=normalize)


def _rows(output: Output) -> Array:
    return finite(token_rows(output).copy())


def _embed_message(vector: Array, metadata: tei_pb2.Metadata) -> bytes:
    return vector_message(vector, tei_pb2.EmbedResponse(metadata=metadata))


def _embed_all_message(rows: Array, metadata: tei_pb2.Metadata) -> bytes:
    return rows_message(rows, tei_pb2.EmbedAllResponse(metadata=metadata))


def _embed_sparse_message(weights: Array, metadata: tei_pb2.Metadata) -> bytes:
    """Return the weights that are not zero, in the order of the vocabulary."""
    (present,) = weights.nonzero()
    pairs = zip(present.tolist(), weights[present].tolist(), strict=True)
    values = [tei_pb2.SparseValue(index=index, value=value) for index, value in pairs]
    message = tei_pb2.EmbedSparseResponse(sparse_embeddings=values, metadata=metadata)
    return message.SerializeToString()


def embed_handlers(
    service: EmbedService, metrics: Metrics, permits: Permits, window: int
) -> grpc.GenericRpcHandler[object, object]:
    """Return the methods of ``tei.v1.Embed``.

    Args:
        service: Answers them.
        metrics: Counts calls.
        permits: Shared with the other services.
        window: Most items of one stream between reading and writing.
    """
    calls = Calls(window, permits, metrics)
    all_calls = Calls(min(window, EMBED_ALL_WINDOW), permits, metrics)
    methods: dict[str, Handler] = {
        "Embed": calls.unary(tei_pb2.EmbedRequest, service.embed),
        "EmbedStream": calls.stream(tei_pb2.EmbedRequest, service.embed),
        "EmbedSparse": calls.unary(tei_pb2.EmbedSparseRequest, service.embed_sparse),
        "EmbedSparseStream": calls.stream(tei_pb2.EmbedSparseRequest, service.embed_sparse),
        "EmbedAll": all_calls.unary(tei_pb2.EmbedAllRequest, service.embed_all),
        "EmbedAllStream": all_calls.stream(tei_pb2.EmbedAllRequest, service.embed_all),
    }
    return grpc.method_handlers_generic_handler("tei.v1.Embed", methods)
