"""``tei.v1.Predict``: the labels of a text or of a pair of texts, with their scores."""

from __future__ import annotations

from functools import partial

import grpc

from tei_manager.engine.batcher import Inferred
from tei_manager.engine.metrics import Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import Input, Pipeline, Work, cut_of
from tei_manager.engine.refusals import no_classifier, wrong_pair
from tei_manager.engine.rpc import Calls, Handler, Reply, Running
from tei_manager.engine.scores import descending, logits_of, scores_of
from tei_manager.grpc.proto.tei.v1 import tei_pb2


class PredictService:
    """Predictions of one model.

    Args:
        pipeline: The way of a text.
        labels: The model's, in the order of its logits; none if it is no classifier.
        metrics: Counts the texts.
    """

    def __init__(self, pipeline: Pipeline, labels: tuple[str, ...], metrics: Metrics) -> None:
        self._pipeline = pipeline
        self._labels = labels
        self._metrics = metrics

    async def predict(self, request: tei_pb2.PredictRequest) -> Running:
        """Begin on the labels of a text."""
        return await self._begin(request, request.inputs, None)

    async def predict_pair(self, request: tei_pb2.PredictPairRequest) -> Running:
        """Begin on the labels of one or two texts; in a stream they are counted here."""
        check_pair(request)
        first, second = (*request.inputs, None)[:2]
        return await self._begin(request, first or "", second)

    async def _begin(
        self,
        request: tei_pb2.PredictRequest | tei_pb2.PredictPairRequest,
        text: str,
        second: str | None,
    ) -> Running:
        cut = cut_of(request.truncate, request.truncation_direction)
        if not self._labels:
            raise no_classifier()
        self._metrics.text_started("predict")
        work = await self._pipeline.submit(Input(text, None, cut, second), logits_of)
        return Running(work.future, partial(self._reply, work, request.raw_scores))

    def _reply(self, work: Work, raw: bool, inferred: Inferred) -> Reply:
        scores = scores_of(inferred.values, raw=raw)
        cost = work.cost(inferred)
        self._metrics.text_succeeded("predict", cost)
        self._metrics.request_took(cost)
        predictions = [
            tei_pb2.Prediction(score=scores[index], label=self._labels[index])
            for index in descending(scores)
        ]
        message = tei_pb2.PredictResponse(predictions=predictions, metadata=cost.metadata())
        return Reply(message.SerializeToString(), cost)


def check_pair(request: tei_pb2.PredictPairRequest) -> None:
    """Refuse what is no pair; a single input is one to TEI."""
    if len(request.inputs) not in (1, 2):
        raise wrong_pair(len(request.inputs))


def predict_handlers(
    service: PredictService, metrics: Metrics, permits: Permits, window: int
) -> grpc.GenericRpcHandler[object, object]:
    """Return the methods of ``tei.v1.Predict``; arguments as for `embed_handlers`."""
    calls = Calls(window, permits, metrics)
    methods: dict[str, Handler] = {
        "Predict": calls.unary(tei_pb2.PredictRequest, service.predict),
        "PredictStream": calls.stream(tei_pb2.PredictRequest, service.predict),
        "PredictPair": calls.unary(tei_pb2.PredictPairRequest, service.predict_pair, check_pair),
        "PredictPairStream": calls.stream(tei_pb2.PredictPairRequest, service.predict_pair),
    }
    return grpc.method_handlers_generic_handler("tei.v1.Predict", methods)
