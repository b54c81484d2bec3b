"""``tei.v1.Rerank``: texts in the order in which they answer a query.

TEI never answers its own RerankStream (it waits for a channel that it holds open itself). Here it
does what the protocol says: each message has a query and a text, ``raw_scores`` and ``return_text``
count in the first one, and the answer comes when the client has ended its side.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import closing

import grpc

from tei_manager.engine.kinds import Kind
from tei_manager.engine.metrics import Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import Pipeline, cut_of
from tei_manager.engine.ranking import Ranking
from tei_manager.engine.refusals import (
    no_classifier_to_rank,
    no_reranker,
    no_texts,
    too_many_texts,
    too_much_to_rank,
)
from tei_manager.engine.rpc import Calls, Handler, Reply, only
from tei_manager.grpc.proto.tei.v1 import tei_pb2

# Most texts and bytes of one RerankStream, which TEI does not bound; those of the multiplexer's.
MAX_TEXTS = 10_000
MAX_BYTES = 16 * 1024 * 1024

Request = tei_pb2.RerankRequest
StreamRequest = tei_pb2.RerankStreamRequest


class RerankService:
    """Rankings by one model.

    Args:
        pipeline: The way of a text.
        kind: What the model is for; only a reranker ranks.
        metrics: Counts the texts.
        permits: Shared with the other services; each text waits for one.
        max_texts: Most texts of one Rerank (``--max-client-batch-size``).
    """

    def __init__(
        self, pipeline: Pipeline, kind: Kind, metrics: Metrics, permits: Permits, max_texts: int
    ) -> None:
        self._pipeline = pipeline
        self._kind = kind
        self._metrics = metrics
        self._permits = permits
        self._max_texts = max_texts

    async def rerank(self, requests: AsyncIterator[Request]) -> Reply:
        """Rank the texts of the only request; checks come in TEI's order."""
        request = await only(requests)
        if not request.texts:
            raise no_texts()
        self._check_kind()
        cut = cut_of(request.truncate, request.truncation_direction)
        if len(request.texts) > self._max_texts:
            raise too_many_texts(len(request.texts), self._max_texts)
        with closing(self._ranking(request)) as ranking:
            for text in request.texts:
                await ranking.add(request.query, text, cut, keep=request.return_text)
            return await self._reply(ranking)

    async def rerank_stream(self, requests: AsyncIterator[StreamRequest]) -> Reply:
        """Rank the texts of all requests; that there is a model for it is checked before them."""
        self._check_kind()
        first = await anext(requests, None)
        if first is None:
            raise no_texts()
        octets = 0
        with closing(self._ranking(first)) as ranking:
            async for request in _chain(first, requests):
                octets += request.ByteSize()
                if len(ranking) == MAX_TEXTS or octets > MAX_BYTES:
                    raise too_much_to_rank(MAX_TEXTS, MAX_BYTES)
                cut = cut_of(request.truncate, request.truncation_direction)
                await ranking.add(request.query, request.text, cut, keep=first.return_text)
            return await self._reply(ranking)

    def _check_kind(self) -> None:
        if self._kind is Kind.EMBEDDING:
            raise no_classifier_to_rank()
        if self._kind is Kind.CLASSIFIER:
            raise no_reranker()

    def _ranking(self, request: Request | StreamRequest) -> Ranking:
        return Ranking(self._pipeline, self._permits, self._metrics, raw=request.raw_scores)

    async def _reply(self, ranking: Ranking) -> Reply:
        message, cost = await ranking.response()
        self._metrics.request_took(cost)
        return Reply(message.SerializeToString(), cost)


async def _chain(
    first: StreamRequest, rest: AsyncIterator[StreamRequest]
) -> AsyncIterator[StreamRequest]:
    yield first
    async for request in rest:
        yield request


def rerank_handlers(
    service: RerankService, metrics: Metrics
) -> grpc.GenericRpcHandler[object, object]:
    """Return the methods of ``tei.v1.Rerank``.

    Args:
        service: Answers them; it takes the permits itself.
        metrics: Counts calls.
    """
    calls = Calls(metrics=metrics)
    methods: dict[str, Handler] = {
        "Rerank": calls.single(Request, service.rerank, "batch"),
        "RerankStream": calls.single(StreamRequest, service.rerank_stream, "batch"),
    }
    return grpc.method_handlers_generic_handler("tei.v1.Rerank", methods)
