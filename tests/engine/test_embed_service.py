from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

FIXTURE = json.loads((Path(__file__).parent / "data/minilm_vectors.json").read_text())
TEXTS = [row["text"] for row in FIXTURE["rows"]]

# Any: a direction that the enum lacks is one of the findings.
Request: Any = tei_pb2.EmbedRequest
PROMPTS = {"prompts": {"query": "a b "}}


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return tei_pb2_grpc.EmbedStub(channel)


def _array(values: Any) -> NDArray[np.float64]:
    return np.array(list(values), dtype=np.float64)


@pytest.mark.parametrize("row", FIXTURE["rows"], ids=range(len(TEXTS)))
def test_a_vector_is_that_of_the_published_weights(row: dict[str, Any], stub: Any) -> None:
    answer = stub.Embed(Request(inputs=row["text"], truncate=True))
    found, expected = _array(answer.embeddings), _array(row["vector"])
    assert found @ expected / np.linalg.norm(found) / np.linalg.norm(expected) >= 0.99999
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_a_stream_answers_each_text_in_order_with_what_a_unary_call_gives(stub: Any) -> None:
    requests = [Request(inputs=text, truncate=True) for text in TEXTS * 3]
    answers = list(stub.EmbedStream(iter(requests)))
    assert len(answers) == len(requests)
    for request, answer in zip(requests[:20], answers[40:], strict=True):
        alone = stub.Embed(request)
        np.testing.assert_allclose(answer.embeddings, alone.embeddings, atol=1e-5, rtol=0)


def test_normalize_unset_means_yes_and_false_means_no(stub: Any) -> None:
    unset = _array(stub.Embed(Request(inputs="a text")).embeddings)
    raw = _array(stub.Embed(Request(inputs="a text", normalize=False)).embeddings)
    assert np.linalg.norm(raw) > 1.1
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unset, atol=1e-6)


def test_dimensions_cut_first_and_normalise_then(stub: Any) -> None:
    whole = _array(stub.Embed(Request(inputs="a text")).embeddings)
    cut = _array(stub.Embed(Request(inputs="a text", dimensions=10)).embeddings)
    np.testing.assert_allclose(cut, whole[:10] / np.linalg.norm(whole[:10]), atol=1e-6)
    assert len(stub.Embed(Request(inputs="a", dimensions=384)).embeddings) == 384


def test_embed_all_gives_a_row_for_each_token_special_ones_too(stub: Any) -> None:
    answer = stub.EmbedAll(tei_pb2.EmbedAllRequest(inputs="Hello world"))
    rows = _array([row.embeddings for row in answer.token_embeddings])
    assert rows.shape == (4, 384)
    assert answer.metadata.compute_tokens == 4
    pooled = stub.Embed(Request(inputs="Hello world", normalize=False)).embeddings
    np.testing.assert_allclose(rows.mean(axis=0), pooled, atol=1e-5)


def test_embed_all_stream_keeps_order(stub: Any) -> None:
    texts = ["one", "one two", "one two three"] * 20
    answers = stub.EmbedAllStream(tei_pb2.EmbedAllRequest(inputs=text) for text in texts)
    lengths = [len(answer.token_embeddings) for answer in answers]
    assert lengths == [3, 4, 5] * 20


def test_truncation_cuts_the_end_that_was_asked_for(stub: Any) -> None:
    text = "start " + "word " * 400 + "finish"
    right = stub.Embed(Request(inputs=text, truncate=True)).embeddings
    left = stub.Embed(Request(inputs=text, truncate=True, truncation_direction=1)).embeddings
    assert right == stub.Embed(Request(inputs="start " + "word " * 253)).embeddings
    assert left == stub.Embed(Request(inputs="word " * 253 + "finish")).embeddings


def test_a_unary_answer_has_the_eight_headers_and_they_agree_with_the_metadata(stub: Any) -> None:
    answer, call = stub.Embed.with_call(Request(inputs="Grüße 世界"))
    headers = dict(call.initial_metadata())
    metadata = answer.metadata
    milliseconds = {
        "x-compute-time": metadata.total_time_ns,
        "x-total-time": metadata.total_time_ns,
        "x-tokenization-time": metadata.tokenization_time_ns,
        "x-queue-time": metadata.queue_time_ns,
        "x-inference-time": metadata.inference_time_ns,
    }
    expected = {name: str(value // 1_000_000) for name, value in milliseconds.items()}
    expected |= {
        "x-compute-type": "gpu+optimized",
        "x-compute-characters": "8",
        "x-compute-tokens": str(metadata.compute_tokens),
    }
    assert headers == expected
    assert metadata.compute_chars == 8
    parts = metadata.tokenization_time_ns + metadata.queue_time_ns + metadata.inference_time_ns
    assert 0 < parts <= metadata.total_time_ns


def test_a_stream_has_no_such_headers(stub: Any) -> None:
    call = stub.EmbedStream(iter([Request(inputs="a")]))
    assert list(call.initial_metadata()) == []
    assert len(list(call)) == 1


INVALID = grpc.StatusCode.INVALID_ARGUMENT
VALIDATION = "Input validation error: "


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(), "`inputs` cannot be empty"),
        (Request(inputs="w " * 300), "`inputs` must have less than 256 tokens. Given: 302"),
        (
            Request(inputs="w" * 64001),
            "`inputs` must have less than 64000 characters. Given: 64001",
        ),
        (
            Request(inputs="a", prompt_name="query"),
            "`default-prompt-name` is set to `query` but no prompts were found in the Sentence"
            " Transformers configuration",
        ),
        (Request(inputs="a", dimensions=0), "`dimensions` should be positive"),
        (
            Request(inputs="a", dimensions=385),
            "`dimensions` should be smaller than the maximum embedding dimension.",
        ),
        (
            Request(inputs="a", truncation_direction=2),
            "`truncation_direction` must be 0 (right) or 1 (left). Given: 2",
        ),
        (Request(dimensions=0), "`dimensions` should be positive"),
    ],
)
def test_a_bad_request_gets_the_routers_words_and_the_next_one_works(
    request_: tei_pb2.EmbedRequest, message: str, stub: Any
) -> None:
    for call in (lambda: stub.Embed(request_), lambda: list(stub.EmbedStream(iter([request_])))):
        with pytest.raises(grpc.RpcError) as refusal:
            call()
        error: Any = refusal.value
        assert (error.code(), error.details()) == (INVALID, VALIDATION + message)
    assert stub.Embed(Request(inputs="a")).embeddings


def test_sparse_embeddings_are_refused_as_without_splade(stub: Any) -> None:
    request = tei_pb2.EmbedSparseRequest(inputs="a")
    for call in (
        lambda: stub.EmbedSparse(request),
        lambda: list(stub.EmbedSparseStream(iter([request]))),
    ):
        with pytest.raises(grpc.RpcError) as refusal:
            call()
        error: Any = refusal.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == (
            "Backend error: Model is not an embedding model with SPLADE pooling"
        )


def test_a_message_over_4_mib_is_refused_and_the_connection_lives(stub: Any) -> None:
    request = Request(inputs="x" * (4 * 1024 * 1024))
    for call in (lambda: stub.Embed(request), lambda: list(stub.EmbedStream(iter([request])))):
        with pytest.raises(grpc.RpcError) as refusal:
            call()
        error: Any = refusal.value
        assert error.code() is grpc.StatusCode.OUT_OF_RANGE
        assert error.details() == (
            "Error, message length too large: found 4194309 bytes, the limit is: 4194304 bytes"
        )


def test_a_message_too_large_to_hold_is_refused_by_the_library(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Embed(Request(inputs="x" * (16 * 1024 * 1024)))
    error: Any = refusal.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert stub.Embed(Request(inputs="x" * 3_000_000, truncate=True)).embeddings


def test_a_compressed_message_is_refused(stub: Any) -> None:
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Embed(Request(inputs="x" * 1000), compression=grpc.Compression.Gzip)
    error: Any = refusal.value
    assert error.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.asyncio
async def test_two_hundred_streams_at_once_are_all_answered(minilm_address: str) -> None:
    async with grpc.aio.insecure_channel(minilm_address) as channel:
        stub: Any = tei_pb2_grpc.EmbedStub(channel)

        async def one(number: int) -> int:
            texts = [Request(inputs=f"{number} {index}") for index in range(3)]
            return len([answer async for answer in stub.EmbedStream(iter(texts))])

        assert await asyncio.gather(*map(one, range(200))) == [3] * 200


def test_a_reader_that_pauses_loses_nothing_and_holds_nobody_up(stub: Any) -> None:
    requests = [tei_pb2.EmbedAllRequest(inputs="word " * (1 + n % 90)) for n in range(90)]
    call = stub.EmbedAllStream(iter(requests))
    first = next(call)
    for _ in range(5):
        assert stub.Embed(Request(inputs="in between")).embeddings
    counts = [len(answer.token_embeddings) for answer in (first, *call)]
    assert counts == [3 + n % 90 for n in range(90)]


@pytest.fixture
def prompted(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a starter of an engine whose model has prompts; gives its stub."""

    def start(*flags: str) -> Any:
        directory, _, _ = make_model()
        (directory / "config_sentence_transformers.json").write_text(json.dumps(PROMPTS))
        return tei_pb2_grpc.EmbedStub(
            grpc.insecure_channel(start_engine(directory, *flags).address)
        )

    return start


def test_a_prompt_goes_before_the_text_and_is_not_counted_as_its_characters(
    prompted: Callable[..., Any],
) -> None:
    stub = prompted("--default-prompt", "c ")
    named = stub.Embed(Request(inputs="d", prompt_name="query"))
    assert named.metadata.compute_chars == 1
    assert named.metadata.compute_tokens == 5
    plain = stub.Embed(Request(inputs="d"))
    assert plain.metadata.compute_tokens == 4
    with pytest.raises(grpc.RpcError) as refusal:
        stub.Embed(Request(inputs="d", prompt_name=""))
    error: Any = refusal.value
    assert error.details() == (
        "Input validation error: `default-prompt-name` is set to `` but it was not found in the"
        ' Sentence Transformers prompts. Available prompts: ["query"]'
    )


def test_broken_weights_never_leave_as_nan(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, weights = make_model()
    weights["embeddings.word_embeddings.weight"][4] = np.nan
    save_file(weights, directory / "model.safetensors")
    with grpc.insecure_channel(start_engine(directory).address) as channel:
        stub: Any = tei_pb2_grpc.EmbedStub(channel)
        for method, kind in ((stub.Embed, Request), (stub.EmbedAll, tei_pb2.EmbedAllRequest)):
            with pytest.raises(grpc.RpcError) as refusal:
                method(kind(inputs="a"))
            error: Any = refusal.value
            assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert error.details() == "Backend error: the embedding is not finite"
            assert method(kind(inputs="b"))
