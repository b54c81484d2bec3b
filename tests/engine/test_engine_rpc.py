from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from tei_manager.engine.metrics import Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.rpc import Calls, Reply, Running
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.grpc.status import Code, StatusError

SECONDS = 10

Begin = Callable[[Any], Awaitable[Running]]


def _reply(text: str) -> Reply:
    return Reply(tei_pb2.DecodeResponse(text=text).SerializeToString())


class Work:
    """Stands in for a service: each request waits until the test answers it."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.futures: dict[str, asyncio.Future[str]] = {}
        self.news = asyncio.Condition()

    async def begin(self, request: tei_pb2.EmbedRequest) -> Running:
        if request.inputs == "refused":
            raise StatusError(Code.INVALID_ARGUMENT, "refused it is")
        if request.inputs == "broken":
            raise ZeroDivisionError
        future = asyncio.get_running_loop().create_future()
        self.futures[request.inputs] = future
        async with self.news:
            self.begun.append(request.inputs)
            self.news.notify_all()
        return Running(future, _reply)

    async def has_begun(self, count: int) -> None:
        async with self.news:
            await asyncio.wait_for(self.news.wait_for(lambda: len(self.begun) >= count), SECONDS)

    def answer(self, *names: str) -> None:
        for name in names:
            self.futures[name].set_result(name)


@asynccontextmanager
async def _served(begin: Begin, permits: int = 64, window: int = 8) -> AsyncIterator[Any]:
    calls = Calls(window, Permits(permits), Metrics(8))
    server = grpc.aio.server()
    methods = {
        "One": calls.unary(tei_pb2.EmbedRequest, begin),
        "Many": calls.stream(tei_pb2.EmbedRequest, begin),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test", methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(0)


def _many(channel: Any, serialize: bool = True) -> Any:
    encode = tei_pb2.EmbedRequest.SerializeToString if serialize else None
    return channel.stream_stream("/test/Many", encode, tei_pb2.DecodeResponse.FromString)()


def _one(channel: Any, data: bytes) -> Any:
    return channel.unary_unary("/test/One", None, tei_pb2.DecodeResponse.FromString)(data)


def _request(name: str) -> tei_pb2.EmbedRequest:
    return tei_pb2.EmbedRequest(inputs=name)


@pytest.mark.asyncio
async def test_answers_come_in_the_order_of_the_requests_whatever_is_done_first() -> None:
    work = Work()
    async with _served(work.begin) as channel:
        call = _many(channel)
        for name in "abc":
            await call.write(_request(name))
        await call.done_writing()
        await work.has_begun(3)
        work.answer("c", "b", "a")
        assert [answer.text async for answer in call] == ["a", "b", "c"]


@pytest.mark.asyncio
async def test_the_first_failure_ends_the_stream_after_the_answers_before_it() -> None:
    work = Work()
    async with _served(work.begin) as channel:
        call = _many(channel)
        for name in ("a", "refused", "b"):
            await call.write(_request(name))
        await work.has_begun(1)
        work.answer("a")
        assert (await call.read()).text == "a"
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "refused it is"
    assert work.begun == ["a"]


@pytest.mark.asyncio
async def test_a_message_that_is_no_protobuf_is_refused_in_its_place() -> None:
    work = Work()
    async with _served(work.begin) as channel:
        call = _many(channel, serialize=False)
        await call.write(_request("a").SerializeToString())
        await call.write(b"\xff\xff")
        await work.has_begun(1)
        work.answer("a")
        assert (await call.read()).text == "a"
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert (await call.details()).startswith("failed to decode Protobuf message: ")


@pytest.mark.asyncio
async def test_a_unary_call_without_its_message_is_answered() -> None:
    async with _served(Work().begin) as channel:
        call = channel.stream_unary("/test/One", None, None)(iter(()), timeout=SECONDS)
        assert await call.code() is grpc.StatusCode.INTERNAL
        assert await call.details() == "Missing request message."


@pytest.mark.asyncio
async def test_a_stream_without_messages_ends_well() -> None:
    async with _served(Work().begin) as channel:
        call = _many(channel)
        await call.done_writing()
        assert [answer async for answer in call] == []
        assert await call.code() is grpc.StatusCode.OK


@pytest.mark.asyncio
async def test_a_stream_is_read_no_further_than_its_window() -> None:
    work = Work()
    async with _served(work.begin, window=2) as channel:
        call = _many(channel)
        for number in range(10):
            await call.write(_request(str(number)))
        # Two in line, one that waits for its answer, one that waits for room in the line.
        await work.has_begun(4)
        work.answer("0")
        await work.has_begun(5)
        assert work.begun == list("01234")
        call.cancel()


@pytest.mark.asyncio
async def test_answers_that_nobody_reads_stop_the_work_until_they_are_read() -> None:
    begun = 0

    async def begin(request: tei_pb2.EmbedRequest) -> Running:
        nonlocal begun
        begun += 1
        return Running.done(tei_pb2.DecodeResponse(text=request.inputs * 500_000))

    async with _served(begin, window=2) as channel:
        call = _many(channel)
        for _ in range(50):
            await call.write(_request("x"))
        await call.done_writing()
        for _ in range(20):
            await _one(channel, _request("").SerializeToString())
        assert begun - 20 < 25, "12 MB were made for a client that reads nothing"
        assert len([answer async for answer in call]) == 50


@pytest.mark.asyncio
async def test_a_client_that_goes_away_withdraws_all_it_has_asked_for() -> None:
    work = Work()
    async with _served(work.begin) as channel:
        call = _many(channel)
        for name in "abc":
            await call.write(_request(name))
        await work.has_begun(3)
        call.cancel()
        futures = list(work.futures.values())
        await asyncio.wait_for(asyncio.wait(futures), SECONDS)
        assert all(future.cancelled() for future in futures)


@pytest.mark.asyncio
async def test_a_unary_call_that_goes_away_frees_its_permit() -> None:
    work = Work()
    async with _served(work.begin, permits=1) as channel:
        call = _one(channel, _request("a").SerializeToString())
        await work.has_begun(1)
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await _one(channel, _request("b").SerializeToString())
        assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refusal.value.details() == "Model is overloaded"
        call.cancel()
        await asyncio.wait_for(asyncio.wait([work.futures["a"]]), SECONDS)
        again = _one(channel, _request("c").SerializeToString())
        await work.has_begun(2)
        work.answer("c")
        assert (await again).text == "c"


@pytest.mark.asyncio
async def test_a_deadline_withdraws_the_request() -> None:
    work = Work()
    async with _served(work.begin) as channel:
        method = channel.unary_unary("/test/One", None, None)
        with pytest.raises(grpc.aio.AioRpcError) as end:
            await method(_request("a").SerializeToString(), timeout=0.2)
        assert end.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await asyncio.wait_for(asyncio.wait([work.futures["a"]]), SECONDS)
        assert work.futures["a"].cancelled()


@pytest.mark.asyncio
async def test_a_mistake_of_ours_ends_a_stream_and_does_not_hang_it() -> None:
    async with _served(Work().begin) as channel:
        call = _many(channel)
        await call.write(_request("broken"))
        assert await asyncio.wait_for(call.code(), SECONDS) is grpc.StatusCode.UNKNOWN
