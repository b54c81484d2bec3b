from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> Any:
    return tei_pb2_grpc.TokenizeStub(channel)


def _tokens(answer: tei_pb2.EncodeResponse) -> list[tuple[Any, ...]]:
    return [
        (token.text, token.special, token.start, token.stop, token.HasField("start"))
        for token in answer.tokens
    ]


def test_special_tokens_come_only_when_asked_for_and_have_no_offsets(stub: Any) -> None:
    plain = stub.Tokenize(tei_pb2.EncodeRequest(inputs="Hé 世"))
    assert _tokens(plain) == [("Hé", False, 0, 3, True), ("世", False, 4, 7, True)]
    whole = stub.Tokenize(tei_pb2.EncodeRequest(inputs="Hé 世", add_special_tokens=True))
    assert _tokens(whole) == [
        ("[CLS]", True, 0, 0, False),
        *_tokens(plain),
        ("[SEP]", True, 0, 0, False),
    ]


def test_tokenizing_never_truncates(stub: Any) -> None:
    answer = stub.Tokenize(tei_pb2.EncodeRequest(inputs="word " * 5000))
    assert len(answer.tokens) == 5000
    assert (answer.tokens[-1].start, answer.tokens[-1].stop) == (24995, 24999)


def test_decoding_skips_special_tokens_only_when_asked_to(stub: Any) -> None:
    ids = [101, 7592, 2088, 102]
    assert stub.Decode(tei_pb2.DecodeRequest(ids=ids)).text == "[CLS] hello world [SEP]"
    skipped = stub.Decode(tei_pb2.DecodeRequest(ids=ids, skip_special_tokens=True))
    assert skipped.text == "hello world"


def test_streams_answer_in_order(stub: Any) -> None:
    texts = ["one", "one two " * 900, "three"]
    encoded = list(stub.TokenizeStream(tei_pb2.EncodeRequest(inputs=text) for text in texts))
    assert [len(answer.tokens) for answer in encoded] == [1, 1800, 1]
    decoded = stub.DecodeStream(tei_pb2.DecodeRequest(ids=[number]) for number in (7592, 2088))
    assert [answer.text for answer in decoded] == ["hello", "world"]


@pytest.mark.parametrize(
    ("method", "request_", "message"),
    [
        ("Tokenize", tei_pb2.EncodeRequest(), "`inputs` cannot be empty"),
        (
            "Tokenize",
            tei_pb2.EncodeRequest(inputs="x" * 64001),
            "`inputs` must have less than 64000 characters. Given: 64001",
        ),
        ("Decode", tei_pb2.DecodeRequest(), "`input_ids` cannot be empty"),
    ],
)
def test_a_bad_request_gets_the_routers_words(
    method: str, request_: Any, message: str, stub: Any
) -> None:
    calls = (
        lambda: getattr(stub, method)(request_),
        lambda: list(getattr(stub, f"{method}Stream")(iter([request_]))),
    )
    for call in calls:
        with pytest.raises(grpc.RpcError) as refusal:
            call()
        error: Any = refusal.value
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert error.details() == f"Input validation error: {message}"


def test_neither_calls_have_the_headers_of_a_model(stub: Any) -> None:
    _, call = stub.Tokenize.with_call(tei_pb2.EncodeRequest(inputs="a"))
    assert list(call.initial_metadata()) == []


def test_a_text_that_the_tokenizer_cannot_read_gets_the_routers_words(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory = make_model().directory
    file = directory / "tokenizer.json"
    description = json.loads(file.read_text())
    description["model"]["unk_token"] = "[NONE]"
    file.write_text(json.dumps(description))
    with grpc.insecure_channel(start_engine(directory).address) as channel:
        stub: Any = tei_pb2_grpc.TokenizeStub(channel)
        with pytest.raises(grpc.RpcError) as refusal:
            stub.Tokenize(tei_pb2.EncodeRequest(inputs="unheard"))
        error: Any = refusal.value
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == (
            "tokenizer error WordPiece error: Missing [UNK] token from the vocabulary"
        )
        assert len(stub.Tokenize(tei_pb2.EncodeRequest(inputs="a b")).tokens) == 2
