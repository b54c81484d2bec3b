"""Engines with tiny models of every kind, held against the NumPy forward pass through gRPC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer

import numpy_encoder
import tiny_models
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc
from tiny_models import FAMILIES, TinyModel

FAILED = grpc.StatusCode.FAILED_PRECONDITION
INVALID = grpc.StatusCode.INVALID_ARGUMENT

# Any: a direction that the enum lacks is one of the findings.
Embed: Any = tei_pb2.EmbedRequest
Predict: Any = tei_pb2.PredictRequest
Pair = tei_pb2.PredictPairRequest
Rerank = tei_pb2.RerankRequest
RerankStream = tei_pb2.RerankStreamRequest


class Served(NamedTuple):
    """A model, its engine's channel, and what tokenises for the second opinion."""

    model: TinyModel
    channel: grpc.Channel
    tokenizer: Tokenizer

    def tokens(self, text: str, second: str | None = None) -> tuple[list[int], list[int]]:
        encoding = self.tokenizer.encode(text, second)
        return encoding.ids, encoding.type_ids

    def logits(self, *texts: str) -> NDArray[np.float64]:
        return numpy_encoder.classify(self.model.config, self.model.weights, *self.tokens(*texts))


@pytest.fixture(scope="module")
def serve(
    tmp_path_factory: pytest.TempPathFactory, start_engine: Callable[..., Any]
) -> Callable[[str, str], Served]:
    """Return a starter of engines by family and head; each is started once."""
    served: dict[tuple[str, str], Served] = {}

    def start(family: str, head: str) -> Served:
        if (family, head) not in served:
            model = tiny_models.write(tmp_path_factory.mktemp("m") / "m", family, head)
            flags = ("--pooling", "splade") if head == "splade" else ()
            engine = start_engine(model.directory, *flags)
            channel = grpc.insecure_channel(engine.address)
            tokenizer = Tokenizer.from_file(str(model.directory / "tokenizer.json"))
            served[family, head] = Served(model, channel, tokenizer)
        return served[family, head]

    return start


def _read(answer: Any) -> None:
    """Read a stream to its end; a unary answer is there already."""
    if hasattr(answer, "__next__"):
        list(answer)


def _refused(call: Any, *arguments: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as refusal:
        _read(call(*arguments))
    error: Any = refusal.value
    return error.code(), error.details()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_embedding_is_the_mean_of_the_definitions_hidden_states(
    family: str, serve: Callable[[str, str], Served]
) -> None:
    served = serve(family, "embedding")
    stub: Any = tei_pb2_grpc.EmbedStub(served.channel)
    ids, _ = served.tokens("a b jé")
    expected = numpy_encoder.forward(served.model.config, served.model.weights, ids).mean(axis=0)
    found = stub.Embed(Embed(inputs="a b jé", normalize=False)).embeddings
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pairs_score_is_that_of_the_definition(
    family: str, serve: Callable[[str, str], Served]
) -> None:
    served = serve(family, "reranker")
    stub: Any = tei_pb2_grpc.PredictStub(served.channel)
    (expected,) = served.logits("a b", "c d e")
    request = Pair(inputs=["a b", "c d e"], raw_scores=True)
    (raw,) = stub.PredictPair(request).predictions
    assert (raw.label, raw.score) == ("relevant", pytest.approx(expected, abs=1e-4))
    request.raw_scores = False
    (shaped,) = next(stub.PredictPairStream(iter([request]))).predictions
    assert shaped.score == pytest.approx(1 / (1 + np.exp(-expected)), abs=1e-5)


def test_labels_come_best_first_with_shares_that_add_up(
    serve: Callable[[str, str], Served],
) -> None:
    served = serve("bert", "classifier")
    stub: Any = tei_pb2_grpc.PredictStub(served.channel)
    logits = served.logits("a b c")
    answer, call = stub.Predict.with_call(Predict(inputs="a b c"))
    order = np.argsort(logits)[::-1]
    assert [row.label for row in answer.predictions] == [
        ["good", "bad", "neither"][index] for index in order
    ]
    shares = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose([row.score for row in answer.predictions], shares[order], atol=1e-5)
    assert dict(call.initial_metadata())["x-compute-characters"] == "5"
    raw = list(stub.PredictStream(iter([Predict(inputs="a b c", raw_scores=True)] * 3)))
    for row in raw:
        scores = [prediction.score for prediction in row.predictions]
        np.testing.assert_allclose(scores, logits[order], atol=1e-4)


def test_one_input_of_a_pair_is_a_single_text(serve: Callable[[str, str], Served]) -> None:
    served = serve("bert", "classifier")
    stub: Any = tei_pb2_grpc.PredictStub(served.channel)
    single = stub.Predict(Predict(inputs="a b")).predictions
    assert stub.PredictPair(Pair(inputs=["a b"])).predictions == single


TEXTS = ["a", "b c", "d e f", "a", "g", "h i j"]


def test_a_ranking_is_by_score_and_the_later_of_equals_comes_first(
    serve: Callable[[str, str], Served],
) -> None:
    served = serve("bert", "reranker")
    stub: Any = tei_pb2_grpc.RerankStub(served.channel)
    scores = [served.logits("q a", text)[0] for text in TEXTS]
    request = Rerank(query="q a", texts=TEXTS, raw_scores=True, return_text=True)
    answer, call = stub.Rerank.with_call(request)
    order = sorted(range(6), key=lambda index: (round(scores[index], 4), index))[::-1]
    assert [rank.index for rank in answer.ranks] == order
    assert order.index(3) == order.index(0) - 1
    for rank in answer.ranks:
        assert rank.score == pytest.approx(scores[rank.index], abs=1e-4)
        assert rank.text == TEXTS[rank.index]
    metadata = answer.metadata
    assert metadata.compute_chars == 6 * 3 + sum(map(len, TEXTS))
    tokens = sum(len(served.tokens("q a", text)[0]) for text in TEXTS)
    assert metadata.compute_tokens == tokens
    assert dict(call.initial_metadata())["x-compute-tokens"] == str(tokens)


def test_a_ranking_of_a_stream_is_that_of_one_message(
    serve: Callable[[str, str], Served],
) -> None:
    stub: Any = tei_pb2_grpc.RerankStub(serve("bert", "reranker").channel)
    whole = stub.Rerank(Rerank(query="q", texts=TEXTS))
    messages = [
        RerankStream(query="q", text=text, raw_scores=index > 0) for index, text in enumerate(TEXTS)
    ]
    streamed = stub.RerankStream(iter(messages))
    assert [rank.index for rank in streamed.ranks] == [rank.index for rank in whole.ranks]
    assert not streamed.ranks[0].HasField("text")
    np.testing.assert_allclose(
        [rank.score for rank in streamed.ranks], [rank.score for rank in whole.ranks], atol=1e-6
    )
    assert streamed.metadata.compute_tokens == whole.metadata.compute_tokens


def test_more_texts_than_permits_are_ranked(
    make_model: Callable[..., TinyModel], start_engine: Callable[..., Any]
) -> None:
    directory = make_model("bert", "reranker").directory
    engine = start_engine(directory, "--max-concurrent-requests", "2")
    with grpc.insecure_channel(engine.address) as channel:
        stub: Any = tei_pb2_grpc.RerankStub(channel)
        assert len(stub.Rerank(Rerank(query="q", texts=["a"] * 30)).ranks) == 30
        messages = (RerankStream(query="q", text="a") for _ in range(100))
        assert len(stub.RerankStream(messages).ranks) == 100


@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_weights_are_those_of_the_definition_without_the_zeros(
    family: str, serve: Callable[[str, str], Served]
) -> None:
    served = serve(family, "splade")
    stub: Any = tei_pb2_grpc.EmbedStub(served.channel)
    ids, _ = served.tokens("a b c")
    expected = numpy_encoder.splade(served.model.config, served.model.weights, ids)
    answer = stub.EmbedSparse(tei_pb2.EmbedSparseRequest(inputs="a b c"))
    rows = answer.sparse_embeddings
    assert [row.index for row in rows] == np.flatnonzero(expected).tolist()
    np.testing.assert_allclose([row.value for row in rows], expected[expected > 0], atol=1e-4)
    dense = stub.Embed(Embed(inputs="a b c", normalize=False)).embeddings
    np.testing.assert_allclose(dense, expected, atol=1e-4)
    (streamed,) = stub.EmbedSparseStream(iter([tei_pb2.EmbedSparseRequest(inputs="a b c")]))
    assert streamed.sparse_embeddings == rows


@pytest.mark.parametrize(
    ("head", "kind", "serving"),
    [
        ("embedding", tei_pb2.MODEL_TYPE_EMBEDDING, {"Embed"}),
        ("splade", tei_pb2.MODEL_TYPE_EMBEDDING, {"Embed"}),
        ("classifier", tei_pb2.MODEL_TYPE_CLASSIFIER, {"Predict"}),
        ("reranker", tei_pb2.MODEL_TYPE_RERANKER, {"Predict", "Rerank"}),
    ],
)
def test_info_and_health_say_what_the_model_is_for(
    head: str, kind: int, serving: set[str], serve: Callable[[str, str], Served]
) -> None:
    channel = serve("bert", head).channel
    info: Any = tei_pb2_grpc.InfoStub(channel)
    assert info.Info(tei_pb2.InfoRequest()).model_type == kind
    health: Any = health_pb2_grpc.HealthStub(channel)
    states = {
        name: health.Check(health_pb2.HealthCheckRequest(service=f"tei.v1.{name}")).status
        for name in ("Info", "Tokenize", "Embed", "Predict", "Rerank")
    }
    up = {name for name, state in states.items() if state == health_pb2.HealthCheckResponse.SERVING}
    assert up == {"Info", "Tokenize"} | serving


NO_EMBEDDING = (FAILED, "Backend error: Model is not an embedding model")
NO_SPLADE = (FAILED, "Backend error: Model is not an embedding model with SPLADE pooling")
NO_NORMALIZE = (FAILED, "Backend error: `normalize` is not available for SPLADE models")
NO_ALL = (FAILED, "Backend error: `embed_all` is not available for SPLADE models")


@pytest.mark.parametrize(
    ("head", "method", "request_", "status"),
    [
        ("reranker", "Embed", Embed(inputs="a"), NO_EMBEDDING),
        ("classifier", "Embed", Embed(), NO_EMBEDDING),
        (
            "classifier",
            "Embed",
            Embed(dimensions=0),
            (INVALID, "Input validation error: `dimensions` should be positive"),
        ),
        ("classifier", "EmbedAll", tei_pb2.EmbedAllRequest(inputs="a"), NO_EMBEDDING),
        ("classifier", "EmbedSparse", tei_pb2.EmbedSparseRequest(inputs="a"), NO_SPLADE),
        ("embedding", "EmbedSparse", tei_pb2.EmbedSparseRequest(inputs="a"), NO_SPLADE),
        ("splade", "Embed", Embed(inputs="a"), NO_NORMALIZE),
        ("splade", "Embed", Embed(dimensions=0, normalize=True), NO_NORMALIZE),
        ("splade", "EmbedAll", tei_pb2.EmbedAllRequest(inputs="a"), NO_ALL),
    ],
)
def test_an_embedding_that_the_model_does_not_have_is_refused_in_the_routers_order(
    head: str,
    method: str,
    request_: Any,
    status: tuple[grpc.StatusCode, str],
    serve: Callable[[str, str], Served],
) -> None:
    stub: Any = tei_pb2_grpc.EmbedStub(serve("bert", head).channel)
    assert _refused(getattr(stub, method), request_) == status
    assert _refused(getattr(stub, f"{method}Stream"), iter([request_])) == status


EMPTY = (INVALID, "Input validation error: `inputs` cannot be empty")
TOO_LONG = (INVALID, "Input validation error: `inputs` must have less than 24 tokens. Given: 43")


@pytest.mark.parametrize(
    ("method", "request_", "status"),
    [
        ("Predict", Predict(), EMPTY),
        ("PredictPair", Pair(inputs=["", ""]), EMPTY),
        ("PredictPair", Pair(inputs=["a " * 20, "b " * 20]), TOO_LONG),
        (
            "PredictPair",
            Pair(inputs=["a" * 3000, "b" * 3001]),
            (
                INVALID,
                "Input validation error: `inputs` must have less than 6000 characters. Given: 6001",
            ),
        ),
    ],
)
def test_a_bad_prediction_gets_the_routers_words_and_the_next_one_works(
    method: str,
    request_: Any,
    status: tuple[grpc.StatusCode, str],
    serve: Callable[[str, str], Served],
) -> None:
    stub: Any = tei_pb2_grpc.PredictStub(serve("bert", "reranker").channel)
    assert _refused(getattr(stub, method), request_) == status
    assert _refused(getattr(stub, f"{method}Stream"), iter([request_])) == status
    request_.truncate = True
    if status != EMPTY:
        assert getattr(stub, method)(request_).metadata.compute_tokens <= 24
    assert stub.PredictPair(Pair(inputs=["", "a"])).predictions


@pytest.mark.parametrize(
    ("head", "request_", "status"),
    [
        ("embedding", Rerank(query="q"), (INVALID, "`texts` cannot be empty")),
        (
            "embedding",
            Rerank(query="q", texts=["a"]),
            (FAILED, "model is not a classifier model"),
        ),
        ("classifier", Rerank(query="q", texts=["a"]), (FAILED, "model is not a re-ranker model")),
        (
            "reranker",
            Rerank(query="q", texts=["a"] * 33),
            (INVALID, "batch size 33 > maximum allowed batch size 32"),
        ),
        ("reranker", Rerank(query="", texts=["a", ""]), EMPTY),
        ("reranker", Rerank(query="q", texts=["a", "b " * 39]), TOO_LONG),
    ],
)
def test_a_bad_ranking_gets_the_routers_words_and_the_next_one_works(
    head: str,
    request_: Any,
    status: tuple[grpc.StatusCode, str],
    serve: Callable[[str, str], Served],
) -> None:
    channel = serve("bert", head).channel
    stub: Any = tei_pb2_grpc.RerankStub(channel)
    code, details = _refused(stub.Rerank, request_)
    assert (code, details) == status
    if head == "reranker":
        assert stub.Rerank(Rerank(query="", texts=["a"])).ranks


def test_a_default_prompt_of_the_server_goes_before_no_pair(
    make_model: Callable[..., TinyModel], start_engine: Callable[..., Any]
) -> None:
    directory = make_model("bert", "reranker").directory
    with grpc.insecure_channel(
        start_engine(directory, "--default-prompt", "a ").address
    ) as channel:
        stub: Any = tei_pb2_grpc.PredictStub(channel)
        status = (INVALID, "Input validation error: `prompt_name` cannot be set with dual inputs")
        assert _refused(stub.PredictPair, Pair(inputs=["a", "b"])) == status
        assert stub.Predict(Predict(inputs="b")).metadata.compute_tokens == 4


def test_a_broken_score_is_a_status_and_no_number(
    make_model: Callable[..., TinyModel], start_engine: Callable[..., Any]
) -> None:
    model = make_model("bert", "reranker")
    model.weights["embeddings.word_embeddings.weight"][4] = np.nan
    save_file(model.weights, model.directory / "model.safetensors")
    with grpc.insecure_channel(start_engine(model.directory).address) as channel:
        predict: Any = tei_pb2_grpc.PredictStub(channel)
        rerank: Any = tei_pb2_grpc.RerankStub(channel)
        assert _refused(predict.Predict, Predict(inputs="a")) == (FAILED, "score is NaN")
        request = Rerank(query="b", texts=["c", "a"], raw_scores=True)
        assert _refused(rerank.Rerank, request) == (FAILED, "score is NaN")
        assert predict.Predict(Predict(inputs="b")).predictions
