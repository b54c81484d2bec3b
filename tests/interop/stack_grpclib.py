"""grpclib (on hyper-h2) on both sides: ``serve``, or ``call PORT``. It knows no compression.

Where a server's own timer ends a call before the client's, the library finds a reset, or an end
that came too early for it, and does not look at the status. With a deadline, that is the deadline.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from typing import Any

import cases
import mirror
from grpclib.client import Channel
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.metadata import Deadline
from grpclib.server import Server
from mirror import Wishes

_LATE = (TimeoutError, ProtocolError, StreamTerminatedError)
"""What tells of a deadline, or of a server that was first."""


class Octets(CodecBase):
    """Messages as they are."""

    __content_subtype__ = "proto"

    def encode(self, message: Any, message_type: Any) -> bytes:
        return bytes(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        return data


class Service:
    """The service."""

    def __init__(self) -> None:
        self._ends = mirror.Ends()

    def __mapping__(self) -> dict[str, Handler]:
        kinds = {
            "Unary": Cardinality.UNARY_UNARY,
            "Collect": Cardinality.STREAM_UNARY,
            "Scatter": Cardinality.UNARY_STREAM,
            "Mirror": Cardinality.STREAM_STREAM,
            "Ended": Cardinality.UNARY_UNARY,
        }
        return {
            cases.path(name): Handler(getattr(self, name.lower()), kind, bytes, bytes)
            for name, kind in kinds.items()
        }

    async def unary(self, stream: Any) -> None:
        asked = await self._begin(stream)
        message = await stream.recv_message()
        if not asked.status:
            await stream.send_message(message[::-1])
        await self._finish(asked, stream)

    async def collect(self, stream: Any) -> None:
        asked = await self._begin(stream)
        await stream.send_message(mirror.digest([message async for message in stream]))
        await self._finish(asked, stream)

    async def scatter(self, stream: Any) -> None:
        asked = await self._begin(stream)
        for message in mirror.scatter(await stream.recv_message()):
            await stream.send_message(message)
        await self._finish(asked, stream)

    async def mirror(self, stream: Any) -> None:
        asked = await self._begin(stream)
        try:
            if asked.greeting:
                await stream.send_message(asked.greeting)
            async for message in stream:
                await stream.send_message(message)
            await self._finish(asked, stream)
        finally:
            self._ends.note(asked.call)

    async def ended(self, stream: Any) -> None:
        await stream.send_message(await self._ends.wait(await stream.recv_message()))

    async def _begin(self, stream: Any) -> Wishes:
        asked = mirror.wishes(stream.metadata.items())
        await stream.send_initial_metadata(metadata=asked.initial)
        return asked

    async def _finish(self, asked: Wishes, stream: Any) -> None:
        await stream.send_trailing_metadata(
            status=Status(asked.status),
            status_message=asked.message if asked.status else None,
            metadata=asked.trailing,
        )


async def serve() -> None:
    """Serve until killed."""
    server = Server([Service()], codec=Octets())
    await server.start("127.0.0.1", 0)
    print(server._server.sockets[0].getsockname()[1], flush=True)  # type: ignore[union-attr]
    await asyncio.Event().wait()


class Duplex:
    """A call under way."""

    def __init__(self, stack: AsyncExitStack, stream: Any, timed: bool) -> None:
        self._stack, self._stream, self._timed = stack, stream, timed
        self._end: tuple[int, str] = (0, "")
        self._error: Exception | None = None

    async def send(self, message: bytes) -> None:
        await self._stream.send_message(message)

    async def half_close(self) -> None:
        await self._stream.end()

    async def read(self) -> bytes | None:
        try:
            answer: bytes | None = await self._stream.recv_message()
            if answer is None:
                await self._stream.recv_trailing_metadata()
        except GRPCError as error:
            self._error, self._end = error, (error.status.value, error.message or "")
            return None
        except _LATE as error:
            if not self._timed:
                raise
            self._error, self._end = error, (Status.DEADLINE_EXCEEDED.value, "")
            return None
        return answer

    async def cancel(self) -> None:
        await self._stream.cancel()
        self._end = Status.CANCELLED.value, ""

    async def seen(self) -> cases.Seen:
        error = self._error
        with suppress(GRPCError, *_LATE):  # the one that is known from reading
            await self._stack.__aexit__(type(error) if error else None, error, None)
        stream = self._stream
        initial, trailing = stream.initial_metadata or {}, stream.trailing_metadata or {}
        return cases.Seen(*self._end, (), initial.items(), trailing.items())


class Client:
    """The client."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def ask(
        self, path: str, message: bytes, metadata: cases.Metadata, compress: bool
    ) -> cases.Seen:
        call = await self._begin(path, Cardinality.UNARY_UNARY, metadata, None)
        await call.send(message)
        answer = await call.read()
        if answer is not None:
            await call.read()
        seen = await call.seen()
        return seen._replace(answers=() if answer is None else (answer,))

    async def open(self, path: str, metadata: cases.Metadata, seconds: float | None) -> Duplex:
        return await self._begin(path, Cardinality.STREAM_STREAM, metadata, seconds)

    async def _begin(
        self, path: str, kind: Cardinality, metadata: cases.Metadata, seconds: float | None
    ) -> Duplex:
        deadline = Deadline.from_timeout(seconds) if seconds else None
        request: Any = self._channel.request(
            path, kind, bytes, bytes, deadline=deadline, metadata=list(metadata)
        )
        stack = AsyncExitStack()
        stream = await stack.enter_async_context(request)
        await stream.send_request()
        return Duplex(stack, stream, deadline is not None)


async def call(port: int) -> None:
    """Play the cases."""
    async with Channel("127.0.0.1", port, codec=Octets()) as channel:
        await cases.play(Client(channel))


if __name__ == "__main__":
    asyncio.run(call(int(sys.argv[2])) if sys.argv[1] == "call" else serve())
