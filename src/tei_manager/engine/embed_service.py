"""``tei.v1.Embed``: a text's vector, its tokens' vectors, and the refusal of sparse ones."""

from __future__ import annotations

from functools import partial

import grpc

from tei_manager.engine.batcher import Array, Inferred
from tei_manager.engine.config import Pooling
from tei_manager.engine.metrics import Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import Input, Pipeline, Work, cut_of
from tei_manager.engine.pooling import finish, finite, pool
from tei_manager.engine.refusals import invalid, no_splade
from tei_manager.engine.rpc import Calls, Handler, Reply, Running
from tei_manager.engine.tokenizer import Direction
from tei_manager.grpc.proto.tei.v1 import tei_pb2

# Most EmbedAll answers of one stream that wait for its reader: one of 256 tokens and 384 numbers
# is 0.4 MB, where one of Embed is 1.5 kB.
EMBED_ALL_WINDOW = 32


class EmbedService:
    """Embeddings of one model.

    Args:
        pipeline: The way of a text.
        pooling: How the model's token vectors become one.
        metrics: Counts the texts.
    """

    def __init__(self, pipeline: Pipeline, pooling: Pooling, metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._pooling = pooling
        self._metrics = metrics

    async def embed(self, request: tei_pb2.EmbedRequest) -> Running:
        """Begin on a text's vector; checks come in TEI's order."""
        cut = cut_of(request.truncate, request.truncation_direction)
        dimensions = request.dimensions if request.HasField("dimensions") else None
        if dimensions == 0:
            raise invalid("`dimensions` should be positive")
        normalize = request.normalize if request.HasField("normalize") else True
        reduce = partial(_vector, self._pooling, dimensions, normalize)
        self._metrics.embed_started()
        work = await self._pipeline.submit(_input(request, cut), reduce)
        return Running(work.future, partial(self._embed_reply, work))

    async def embed_all(self, request: tei_pb2.EmbedAllRequest) -> Running:
        """Begin on the vectors of a text's tokens, neither pooled nor normalised."""
        cut = cut_of(request.truncate, request.truncation_direction)
        self._metrics.embed_started()
        work = await self._pipeline.submit(_input(request, cut), _rows)
        return Running(work.future, partial(self._embed_all_reply, work))

    async def embed_sparse(self, request: tei_pb2.EmbedSparseRequest) -> Running:
        """Refuse, as TEI does for every model without SPLADE pooling."""
        cut_of(request.truncate, request.truncation_direction)
        raise no_splade()

    def _embed_reply(self, work: Work, inferred: Inferred) -> Reply:
        cost = work.cost(inferred)
        self._metrics.embed_succeeded(cost)
        message = tei_pb2.EmbedResponse(
            embeddings=inferred.values.tolist(), metadata=cost.metadata()
        )
        return Reply(message, cost)

    def _embed_all_reply(self, work: Work, inferred: Inferred) -> Reply:
        cost = work.cost(inferred)
        self._metrics.embed_succeeded(cost)
        rows = [tei_pb2.TokenEmbedding(embeddings=row) for row in inferred.values.tolist()]
        return Reply(
            tei_pb2.EmbedAllResponse(token_embeddings=rows, metadata=cost.metadata()), cost
        )


def _input(request: tei_pb2.EmbedRequest | tei_pb2.EmbedAllRequest, cut: Direction | None) -> Input:
    prompt = request.prompt_name if request.HasField("prompt_name") else None
    return Input(request.inputs, prompt, cut)


def _vector(pooling: Pooling, dimensions: int | None, normalize: bool, hidden: Array) -> Array:
    return finish(pool(hidden, pooling), dimensions, normalize=normalize)


def _rows(hidden: Array) -> Array:
    return finite(hidden.copy())


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
