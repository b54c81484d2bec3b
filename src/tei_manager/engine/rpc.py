"""The shape of a call: one request and one answer, or many of each in order.

A service says how to *begin* on a request; the rest is here and the same for all. Beginning checks,
tokenises and queues; what it returns is an answer under way (`Running`). A unary call waits for its
one answer. A stream goes on reading and beginning while a second loop waits for the answers in
order and writes them, so that the batches of one stream are as full as those of many callers.

Rules of a stream
    1. One answer for each request, in order. The first failure ends the call, after the answers
       before it.
    2. Between reading and writing there are at most ``window`` items. Writing waits for the client
       to read, so a slow reader stops its own reading side and holds nobody else up: a permit goes
       back when the model is done with an item, not when the item is read.
    3. Whatever ends the call withdraws what is still queued.

Messages come and go as bytes: a message that cannot be decoded is refused in TEI's words, which the
library's own decoding would not do, and in its place in the stream. To the library a unary method
of ours takes a stream: a call that ends without its message is then answered, where the library's
own unary handlers leave such a caller waiting for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from tei_manager.engine.cost import Cost
from tei_manager.engine.metrics import Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import abandon
from tei_manager.engine.refusals import Refusal, missing, too_long, undecodable
from tei_manager.grpc.status import StatusError

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

_Request = TypeVar("_Request", bound=Message)

# TEI's limit for a message of a client.
MAX_REQUEST_BYTES = 4 * 1024 * 1024

_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer.

    Args:
        message: What is sent, encoded.
        cost: What it took; unary calls report it in headers. ``None`` for calls that run no model.
    """

    message: bytes
    cost: Cost | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """An answer under way.

    Args:
        future: What is waited for.
        finish: Makes the answer of the future's result.
    """

    future: asyncio.Future[Any]
    finish: Callable[[Any], Reply]

    @classmethod
    def done(cls, message: Message) -> Running:
        """Return an answer that is there already."""
        future = asyncio.get_running_loop().create_future()
        future.set_result(message.SerializeToString())
        return cls(future, Reply)

    @classmethod
    def failed(cls, error: Exception) -> Running:
        """Return a failure in the place of an answer."""
        future = asyncio.get_running_loop().create_future()
        future.set_exception(error)
        return cls(future, Reply)

    async def reply(self) -> Reply:
        """Wait for the answer.

        Cancellation:
            Withdraws the text from the queue.
        """
        return self.finish(await self.future)

    def abandon(self) -> None:
        """Withdraw the text; a failure that nobody will ask for is marked as seen."""
        abandon(self.future)


Begin = Callable[[_Request], Awaitable[Running]]
Check = Callable[[_Request], None]


async def abort(context: Context, error: StatusError) -> NoReturn:
    """End a call with a status."""
    await context.abort(_STATUS_CODES[int(error.code)], error.message)
    raise AssertionError("abort always raises")


def parse(kind: type[_Request], data: bytes) -> _Request:
    """Return a decoded request.

    Raises:
        Refusal: OUT_OF_RANGE, there are too many bytes. INTERNAL, they are none of this kind.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise too_long(len(data), MAX_REQUEST_BYTES)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise undecodable(str(error)) from error


async def only(requests: AsyncIterator[_Request]) -> _Request:
    """Return the request of a unary call.

    Raises:
        Refusal: INTERNAL, the call has ended without it.
    """
    request = await anext(requests, None)
    if request is None:
        raise missing()
    return request


async def _parsed(kind: type[_Request], messages: AsyncIterator[bytes]) -> AsyncIterator[_Request]:
    async for data in messages:
        yield parse(kind, data)


class Calls:
    """Makes method handlers.

    Args:
        window: Most items of one stream between reading and writing.
        permits: What a request needs while it is under way; ``None`` if it needs none.
        metrics: Counts unary calls and failures; ``None`` for methods that TEI does not count.
    """

    def __init__(
        self, window: int = 1, permits: Permits | None = None, metrics: Metrics | None = None
    ) -> None:
        self._window = window
        self._permits = permits
        self._metrics = metrics

    def unary(
        self,
        kind: type[_Request],
        begin: Begin[_Request],
        check: Check[_Request] | None = None,
        method: str = "single",
    ) -> Handler:
        """Return the handler of a method with one request and one answer.

        Args:
            kind: The class of the request.
            begin: Starts the work on it.
            check: Refuses a request before it needs a permit.
            method: ``single`` or ``batch``, the label that TEI counts it under.
        """

        async def answer(requests: AsyncIterator[_Request]) -> Reply:
            request = await only(requests)
            if check is not None:
                check(request)
            return await self._answer(begin, request)

        return self.single(kind, answer, method)

    def single(
        self,
        kind: type[_Request],
        answer: Callable[[AsyncIterator[_Request]], Awaitable[Reply]],
        method: str,
    ) -> Handler:
        """Return the handler of a method with one answer to all that the client sends.

        Args:
            kind: The class of the requests.
            answer: Reads them and makes the answer; the permits are its own affair.
            method: ``single`` or ``batch``, the label that TEI counts it under.
        """

        async def handle(requests: AsyncIterator[bytes], context: Context) -> bytes:
            if self._metrics is not None:
                self._metrics.request_started(method)
            try:
                reply = await answer(_parsed(kind, requests))
            except StatusError as error:
                self._failed(error)
                await abort(context, error)
            if self._metrics is not None:
                self._metrics.request_succeeded(method)
            if reply.cost is not None:
                await context.send_initial_metadata(reply.cost.headers())
            return reply.message

        return grpc.stream_unary_rpc_method_handler(handle)

    async def _answer(self, begin: Begin[_Request], request: _Request) -> Reply:
        """Begin and wait, holding a permit."""
        if self._permits is None:
            return await (await begin(request)).reply()
        await self._permits.take()
        try:
            return await (await begin(request)).reply()
        finally:
            self._permits.give_back()

    def stream(self, kind: type[_Request], begin: Begin[_Request]) -> Handler:
        """Return the handler of a method with many requests, and as many answers in order."""

        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            await context.send_initial_metadata(())
            line: asyncio.Queue[Running | None] = asyncio.Queue(self._window)
            reader = asyncio.create_task(self._read(requests, kind, begin, line))
            try:
                while (running := await line.get()) is not None:
                    reply = await running.reply()
                    await context.write(reply.message)
            except StatusError as error:
                self._failed(error)
                await abort(context, error)
            finally:
                reader.cancel()
                await asyncio.wait([reader])
                _abandon(line)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _read(
        self,
        requests: AsyncIterator[bytes],
        kind: type[_Request],
        begin: Begin[_Request],
        line: asyncio.Queue[Running | None],
    ) -> None:
        """Begin on each request of a stream and put it in line; ``None`` ends the line."""
        try:
            async for data in requests:
                await _put(line, await self._begin_waiting(begin, parse(kind, data)))
            await line.put(None)
        except Exception as error:  # the other loop raises it, in its place in the order
            await _put(line, Running.failed(error))

    async def _begin_waiting(self, begin: Begin[_Request], request: _Request) -> Running:
        """Begin once there is a permit; it goes back when the model is done with the item."""
        if self._permits is None:
            return await begin(request)
        return await self._permits.lend(partial(begin, request))

    def _failed(self, error: StatusError) -> None:
        if self._metrics is not None and isinstance(error, Refusal):
            self._metrics.request_failed(error.kind)


async def _put(line: asyncio.Queue[Running | None], running: Running) -> None:
    """Put an answer in line, or withdraw it if the call ends before there is room."""
    try:
        await line.put(running)
    except asyncio.CancelledError:
        running.abandon()
        raise


def _abandon(line: asyncio.Queue[Running | None]) -> None:
    """Withdraw everything that is still in line."""
    while not line.empty():
        if (running := line.get_nowait()) is not None:
            running.abandon()
