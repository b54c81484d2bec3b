from __future__ import annotations

from typing import Any

import grpc
import pytest

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

FAILED = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT

# Any: a direction that the enum lacks is one of the findings.
Predict: Any = tei_pb2.PredictRequest
Pair = tei_pb2.PredictPairRequest
Rerank = tei_pb2.RerankRequest

NO_CLASSIFIER = "Backend error: Model is not a classifier model"
NO_DIRECTION = (
    "Input validation error: `truncation_direction` must be 0 (right) or 1 (left). Given: 9"
)
NO_PAIR = "`inputs` must have a single or two elements. Given: {}".format


@pytest.fixture(scope="module")
def predict(channel: grpc.Channel) -> Any:
    return tei_pb2_grpc.PredictStub(channel)


@pytest.fixture(scope="module")
def rerank(channel: grpc.Channel) -> Any:
    return tei_pb2_grpc.RerankStub(channel)


def _refused(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refusal:
        list(call(*arguments))
    error: Any = refusal.value
    return error.code(), error.details()


@pytest.mark.parametrize(
    ("method", "request_", "status"),
    [
        ("Predict", Predict(inputs="a"), (FAILED, NO_CLASSIFIER)),
        ("Predict", Predict(), (FAILED, NO_CLASSIFIER)),
        ("Predict", Predict(inputs="a", truncation_direction=9), (INVALID, NO_DIRECTION)),
        ("PredictPair", Pair(inputs=["a", "b"]), (FAILED, NO_CLASSIFIER)),
        ("PredictPair", Pair(inputs=["a"]), (FAILED, NO_CLASSIFIER)),
        ("PredictPair", Pair(), (INVALID, NO_PAIR(0))),
        ("PredictPair", Pair(inputs=["a", "b", "c"]), (INVALID, NO_PAIR(3))),
    ],
)
def test_predictions_are_refused_in_the_routers_words_and_order(
    method: str, request_: Any, status: tuple[grpc.StatusCode, str], predict: Any
) -> None:
    assert _refused(getattr(predict, method), request_) == status
    assert _refused(getattr(predict, f"{method}Stream"), iter([request_])) == status


def test_a_prediction_stream_without_messages_ends_well(predict: Any) -> None:
    assert list(predict.PredictStream(iter(()))) == []


def test_a_rerank_needs_texts_before_it_needs_a_model(rerank: Any) -> None:
    assert _refused(rerank.Rerank, Rerank(query="q")) == (INVALID, "`texts` cannot be empty")
    assert _refused(rerank.Rerank, Rerank(query="q", texts=["a"])) == (
        FAILED,
        "model is not a classifier model",
    )


def test_a_rerank_stream_is_refused_before_its_first_message(rerank: Any) -> None:
    assert _refused(rerank.RerankStream, iter(())) == (FAILED, "model is not a classifier model")


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/tei.v1.Embed/EmbedEverything", None, None)
    assert _refused(call, b"")[0] is grpc.StatusCode.UNIMPLEMENTED
