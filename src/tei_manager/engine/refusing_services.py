"""``tei.v1.Predict`` and ``tei.v1.Rerank`` on a model that only embeds: TEI's refusals.

TEI registers every service whatever the model is, and refuses with FAILED_PRECONDITION what the
model cannot do, after the checks that need no model.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NoReturn

import grpc

from tei_manager.engine.metrics import Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import cut_of
from tei_manager.engine.refusals import no_classifier, no_reranker, no_texts, wrong_pair
from tei_manager.engine.rpc import Calls, Context, Handler, abort
from tei_manager.grpc.proto.tei.v1 import tei_pb2


async def predict(request: tei_pb2.PredictRequest | tei_pb2.PredictPairRequest) -> NoReturn:
    """Refuse for the direction first, as TEI would if it did not abort on it."""
    cut_of(request.truncate, request.truncation_direction)
    raise no_classifier()


def check_pair(request: tei_pb2.PredictPairRequest) -> None:
    """Refuse what is no pair; a single input is one to TEI."""
    if len(request.inputs) not in (1, 2):
        raise wrong_pair(len(request.inputs))


async def predict_pair(request: tei_pb2.PredictPairRequest) -> NoReturn:
    """Refuse; in a stream the count is checked here, after the permit."""
    check_pair(request)
    await predict(request)


async def rerank(request: tei_pb2.RerankRequest) -> NoReturn:
    """Refuse; that there are texts is checked before the model."""
    if not request.texts:
        raise no_texts()
    raise no_reranker()


async def rerank_stream(_requests: AsyncIterator[bytes], context: Context) -> NoReturn:
    """Refuse without reading: the model is known before the first message."""
    await abort(context, no_reranker())


def predict_handlers(
    metrics: Metrics, permits: Permits, window: int
) -> grpc.GenericRpcHandler[object, object]:
    """Return the methods of ``tei.v1.Predict``; arguments as for `embed_handlers`."""
    calls = Calls(window, permits, metrics)
    methods: dict[str, Handler] = {
        "Predict": calls.unary(tei_pb2.PredictRequest, predict),
        "PredictStream": calls.stream(tei_pb2.PredictRequest, predict),
        "PredictPair": calls.unary(tei_pb2.PredictPairRequest, predict_pair, check_pair),
        "PredictPairStream": calls.stream(tei_pb2.PredictPairRequest, predict_pair),
    }
    return grpc.method_handlers_generic_handler("tei.v1.Predict", methods)


def rerank_handlers(
    metrics: Metrics, permits: Permits, window: int
) -> grpc.GenericRpcHandler[object, object]:
    """Return the methods of ``tei.v1.Rerank``; arguments as for `embed_handlers`."""
    calls = Calls(window, permits, metrics)
    methods: dict[str, Handler] = {
        "Rerank": calls.unary(tei_pb2.RerankRequest, rerank, method="batch"),
        "RerankStream": grpc.stream_unary_rpc_method_handler(rerank_stream),
    }
    return grpc.method_handlers_generic_handler("tei.v1.Rerank", methods)
