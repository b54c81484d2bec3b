"""RerankStream: what contracts.md 3.5 promises, built of the predictions of an instance."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import grpc
import grpc.aio
import h2.events
import pytest
from fake_tei import fake_tei
from http2_peer import ANSWER, Peer, connect, fields, scripted
from hypothesis import given, settings
from hypothesis import strategies as st
from multiplexer import Multiplexer, framed, multiplexer, path, table, until

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.mux import rerank

pytestmark = pytest.mark.asyncio
PATH = path("RerankStream")


def message(text: str, query: str = "q", **members: Any) -> mux_pb2.RerankStreamRequest:
    return mux_pb2.RerankStreamRequest(
        target=mux_pb2.Target(instance_name="a"),
        request=tei_pb2.RerankStreamRequest(query=query, text=text, **members),
    )


async def rank(
    mux: Multiplexer, texts: Iterable[str], seconds: float = 20, **members: Any
) -> tei_pb2.RerankResponse:
    stub: Any = mux_grpc.TeiMultiplexerStub(mux.channel())
    response: tei_pb2.RerankResponse = await stub.RerankStream(
        (message(text, **members) for text in texts), timeout=seconds
    )
    return response


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from([-1.5, 0.0, 0.25, 7.0]), min_size=1, max_size=30))
async def test_ranks_are_by_score_and_ties_by_descending_index(scores: list[float]) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        response = await rank(mux, [f"score={score}" for score in scores])
        expected = sorted(range(len(scores)), key=lambda n: (scores[n], n), reverse=True)
        assert [(r.index, r.score) for r in response.ranks] == [(n, scores[n]) for n in expected]
        await mux.settled()


@pytest.mark.parametrize("wanted", [True, False])
async def test_texts_come_back_only_if_the_first_message_asks(wanted: bool) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        stub: Any = mux_grpc.TeiMultiplexerStub(mux.channel())
        messages = [
            message("one score=1", return_text=wanted, raw_scores=True),
            message("zwei score=2", return_text=not wanted, raw_scores=False),
        ]
        response = await stub.RerankStream(iter(messages), timeout=5)
        texts = [r.text if r.HasField("text") else None for r in response.ranks]
        assert texts == (["zwei score=2", "one score=1"] if wanted else [None, None])
        (call,) = tei.calls
        assert call.method == "/tei.v1.Predict/PredictPairStream"
        pairs = [tei_pb2.PredictPairRequest.FromString(m) for m in call.messages]
        assert [list(pair.inputs) for pair in pairs] == [
            ["q", "one score=1"],
            ["q", "zwei score=2"],
        ]
        assert [pair.raw_scores for pair in pairs] == [True, True]


async def test_query_truncation_and_direction_are_those_of_each_message() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        stub: Any = mux_grpc.TeiMultiplexerStub(mux.channel())
        messages = [
            message("x", query="one", truncate=True),
            message("y", query="two", truncation_direction=1),
        ]
        await stub.RerankStream(iter(messages), timeout=5)
        pairs = [tei_pb2.PredictPairRequest.FromString(m) for m in tei.calls[0].messages]
        assert [(p.inputs[0], p.truncate, p.truncation_direction) for p in pairs] == [
            ("one", True, 0),
            ("two", False, 1),
        ]


async def test_metadata_is_summed_where_it_counts_and_averaged_where_it_times() -> None:
    numbers = [(10, 3, 100, 50, 7), (20, 5, 300, 51, 8)]

    async def predict(peer: Peer, _number: int) -> None:
        await peer.start()
        call = await peer.next(h2.events.StreamEnded)
        answers = [
            tei_pb2.PredictResponse(
                predictions=[tei_pb2.Prediction(score=1)],
                metadata=tei_pb2.Metadata(
                    compute_chars=chars,
                    compute_tokens=tokens,
                    total_time_ns=10**15,
                    tokenization_time_ns=tokenization,
                    queue_time_ns=queue,
                    inference_time_ns=inference,
                ),
            )
            for chars, tokens, tokenization, queue, inference in numbers
        ]
        peer.answer(call.stream_id, *(framed(a.SerializeToString()) for a in answers))
        await peer.flush()
        await peer.closed(60)

    async with scripted(predict) as tei, multiplexer(("a", tei.port)) as mux:
        metadata = (await rank(mux, ["x", "y"])).metadata
        assert (metadata.compute_chars, metadata.compute_tokens) == (30, 8)
        assert metadata.tokenization_time_ns == 200
        assert metadata.queue_time_ns == 50  # whole numbers, rounded down
        assert metadata.inference_time_ns == 7
        assert 0 < metadata.total_time_ns < 5 * 10**9


@pytest.mark.parametrize(
    ("first", "code", "details"),
    [
        ("two scores", grpc.StatusCode.FAILED_PRECONDITION, "model is not a re-ranker model"),
        ("score=nan", grpc.StatusCode.FAILED_PRECONDITION, "score is NaN"),
        ("fail 8 overloaded", grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
        ("fail 9 no: 100 %", grpc.StatusCode.FAILED_PRECONDITION, "no: 100 %"),
    ],
)
async def test_what_is_no_ranking_is_an_error(
    first: str, code: grpc.StatusCode, details: str
) -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rank(mux, [first, "fine"])
        assert (failure.value.code(), failure.value.details()) == (code, details)
        await mux.settled()


async def test_an_error_of_the_instance_is_a_whole_grpc_answer() -> None:
    """Some clients take an answer without a content-type for no gRPC at all."""
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        data = framed(message("fail 8 overloaded").SerializeToString())
        call = client.request(PATH, data=data, end=True)
        await client.flush()
        assert await client.status(call) == (8, "overloaded")
        (headers,) = [e for e in client.seen if isinstance(e, h2.events.ResponseReceived)]
        assert [v for name, v in fields(headers) if name == "content-type"] == ["application/grpc"]


async def test_10_000_texts_are_ranked_and_one_more_is_refused() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        response = await rank(mux, ("x" for _ in range(rerank.MAX_TEXTS)))
        assert [r.index for r in response.ranks] == list(reversed(range(rerank.MAX_TEXTS)))
        await mux.settled()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rank(mux, ("x" for _ in range(rerank.MAX_TEXTS + 1)))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 10000 texts" in str(failure.value.details())
        await tei.calls[-1].ended()
        await mux.settled()


async def test_16_mib_of_texts_are_the_limit() -> None:
    text = "x" * (1 << 20)
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rank(mux, (text for _ in range(17)))
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await mux.settled()


@pytest.mark.parametrize("end", ["answered", "cancelled", "refused"])
async def test_a_message_in_pieces_is_counted_while_it_is_held_and_given_back(end: str) -> None:
    whole = message("x" * 30_000).SerializeToString()
    data = framed(whole + whole)  # not canonical, so held until it is whole
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(PATH)
        for start in range(0, 45_000, 15_000):
            client.h2.send_data(call, data[start : start + 15_000])
        await client.flush()
        await until(lambda: mux.switch.pool.queued == 45_000 - 5)
        if end == "answered":
            client.h2.send_data(call, data[45_000:], end_stream=False)
            client.h2.end_stream(call)
        elif end == "cancelled":
            client.h2.reset_stream(call, 8)
        else:
            client.h2.end_stream(call)
        await client.flush()
        if end != "cancelled":
            assert (await client.status(call))[0] == (0 if end == "answered" else 3)
        await mux.settled()


async def test_an_instance_that_leaves_texts_out_gives_no_ranking() -> None:
    async def forget(peer: Peer, _number: int) -> None:
        await peer.start()
        call = await peer.next(h2.events.StreamEnded)
        one = tei_pb2.PredictResponse(predictions=[tei_pb2.Prediction(score=1)])
        peer.answer(call.stream_id, framed(one.SerializeToString()))
        await peer.flush()
        await peer.closed(60)

    async with scripted(forget) as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rank(mux, ["x", "y"])
        assert failure.value.code() is grpc.StatusCode.INTERNAL
        await mux.settled()


@pytest.mark.parametrize(
    "octets", [b"\0\0\0\0\x02\xff\xff", b"\x07\0\0\0\0", b"\0\xff\xff\xff\xff"]
)
async def test_an_instance_that_answers_garbage_is_an_error_and_not_the_end(octets: bytes) -> None:
    async def babble(peer: Peer, _number: int) -> None:
        await peer.start()
        call = await peer.next(h2.events.StreamEnded)
        peer.h2.send_headers(call.stream_id, ANSWER)
        peer.h2.send_data(call.stream_id, octets)
        await peer.flush()
        await peer.closed(60)

    async with scripted(babble) as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rank(mux, ["x"], seconds=3)
        assert failure.value.code() in (
            grpc.StatusCode.INTERNAL,
            grpc.StatusCode.RESOURCE_EXHAUSTED,
        )
        await mux.settled()


async def test_a_client_that_cancels_cancels_the_predictions() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        call = asyncio.ensure_future(rank(mux, ["hang"]))
        seen = await tei.call()
        call.cancel()
        assert (await seen.ended(2)).cancelled
        await mux.settled()


async def test_a_withdrawn_or_unknown_instance_refuses_the_call() -> None:
    async with multiplexer(("a", 1)) as mux:
        mux.worker.apply(table(version=2))
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await rank(mux, ["x"])
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        await mux.settled()
