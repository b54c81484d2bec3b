"""grpc.aio on both sides: ``serve``, or ``call PORT``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import cases
import grpc
import grpc.aio
import mirror
from mirror import Wishes
from stack_grpcio import CODES, compressed, handlers


class Service:
    """The service."""

    def __init__(self) -> None:
        self._ends = mirror.Ends()

    async def unary(self, message: bytes, context: Any) -> bytes:
        await self._finish(await self._begin(context), context)
        return message[::-1]

    async def collect(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        asked = await self._begin(context)
        answer = mirror.digest([message async for message in messages])
        await self._finish(asked, context)
        return answer

    async def scatter(self, question: bytes, context: Any) -> AsyncIterator[bytes]:
        asked = await self._begin(context)
        for message in mirror.scatter(question):
            yield message
        await self._finish(asked, context)

    async def mirror(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        asked = await self._begin(context)
        try:
            if asked.greeting:
                yield asked.greeting
            async for message in messages:
                yield message
            await self._finish(asked, context)
        finally:
            self._ends.note(asked.call)

    async def ended(self, call: bytes, context: Any) -> bytes:
        return await self._ends.wait(call)

    async def _begin(self, context: Any) -> Wishes:
        asked = mirror.wishes(context.invocation_metadata())
        if asked.compress:
            context.set_compression(grpc.Compression.Gzip)
        await context.send_initial_metadata(asked.initial)
        return asked

    async def _finish(self, asked: Wishes, context: Any) -> None:
        context.set_trailing_metadata(asked.trailing)
        if asked.status:
            await context.abort(CODES[asked.status], asked.message)


async def serve() -> None:
    """Serve until killed."""
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers(Service()),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.Event().wait()


class Duplex:
    """A call under way."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def send(self, message: bytes) -> None:
        await self._call.write(message)

    async def half_close(self) -> None:
        await self._call.done_writing()

    async def read(self) -> bytes | None:
        try:
            answer = await self._call.read()
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            return None
        return answer if isinstance(answer, bytes) else None  # the library's EOF

    async def cancel(self) -> None:
        self._call.cancel()

    async def seen(self) -> cases.Seen:
        return await seen(self._call)


async def seen(call: Any, *answers: bytes) -> cases.Seen:
    """Describe a call once it is over."""
    code = (await call.code()).value[0]
    initial = () if call.cancelled() else await call.initial_metadata()
    trailing = await call.trailing_metadata()
    return cases.Seen(code, await call.details() or "", answers, initial, trailing)


class Client:
    """The client."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def ask(
        self, path: str, message: bytes, metadata: cases.Metadata, compress: bool
    ) -> cases.Seen:
        kind, metadata = compressed(metadata) if compress else (None, metadata)
        call = self._channel.unary_unary(path)(message, metadata=metadata, compression=kind)
        try:
            return await seen(call, await call)
        except grpc.aio.AioRpcError:
            return await seen(call)

    async def open(self, path: str, metadata: cases.Metadata, seconds: float | None) -> Duplex:
        call = self._channel.stream_stream(path)(metadata=metadata, timeout=seconds)
        return Duplex(call)


async def call(port: int) -> None:
    """Play the cases."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        await cases.play(Client(channel))


if __name__ == "__main__":
    asyncio.run(call(int(sys.argv[2])) if sys.argv[1] == "call" else serve())
