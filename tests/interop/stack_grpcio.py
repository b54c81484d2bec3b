"""grpcio with threads, on both sides: ``serve``, or ``call PORT``."""

from __future__ import annotations

import asyncio
import queue
import sys
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import cases
import grpc
import mirror
from mirror import Wishes

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Service:
    """The service. Handlers run in threads, `mirror.Ends` lives in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._ends = mirror.Ends()

    def unary(self, message: bytes, context: Any) -> bytes:
        answer = message[::-1]
        self._finish(self._begin(context), context)
        return answer

    def collect(self, messages: Iterator[bytes], context: Any) -> bytes:
        asked = self._begin(context)
        answer = mirror.digest(messages)
        self._finish(asked, context)
        return answer

    def scatter(self, question: bytes, context: Any) -> Iterator[bytes]:
        asked = self._begin(context)
        yield from mirror.scatter(question)
        self._finish(asked, context)

    def mirror(self, messages: Iterator[bytes], context: Any) -> Iterator[bytes]:
        asked = self._begin(context)
        context.add_callback(lambda: self._loop.call_soon_threadsafe(self._ends.note, asked.call))
        if asked.greeting:
            yield asked.greeting
        yield from messages
        self._finish(asked, context)

    def ended(self, call: bytes, context: Any) -> bytes:
        return asyncio.run_coroutine_threadsafe(self._ends.wait(call), self._loop).result()

    def _begin(self, context: Any) -> Wishes:
        asked = mirror.wishes(context.invocation_metadata())
        if asked.compress:
            context.set_compression(grpc.Compression.Gzip)
        context.send_initial_metadata(asked.initial)
        return asked

    def _finish(self, asked: Wishes, context: Any) -> None:
        context.set_trailing_metadata(asked.trailing)
        if asked.status:
            context.abort(CODES[asked.status], asked.message)


def handlers(service: Any) -> Any:
    """Bind the methods of a service; for grpc.aio as well."""
    methods: dict[str, Any] = {
        "Unary": grpc.unary_unary_rpc_method_handler(service.unary),
        "Collect": grpc.stream_unary_rpc_method_handler(service.collect),
        "Scatter": grpc.unary_stream_rpc_method_handler(service.scatter),
        "Mirror": grpc.stream_stream_rpc_method_handler(service.mirror),
        "Ended": grpc.unary_unary_rpc_method_handler(service.ended),
    }
    return grpc.method_handlers_generic_handler(mirror.SERVICE, methods)


async def serve() -> None:
    """Serve until killed."""
    server = grpc.server(futures.ThreadPoolExecutor(16))
    server.add_generic_rpc_handlers((handlers(Service(asyncio.get_running_loop())),))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    await asyncio.Event().wait()


class Duplex:
    """A call under way; what blocks does so in a thread."""

    def __init__(self, method: Any, metadata: cases.Metadata, seconds: float | None) -> None:
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        messages = iter(self._messages.get, None)
        self._call = method(messages, metadata=metadata, timeout=seconds)

    async def send(self, message: bytes) -> None:
        self._messages.put(message)

    async def half_close(self) -> None:
        self._messages.put(None)

    async def read(self) -> bytes | None:
        return await asyncio.to_thread(self._next)

    async def cancel(self) -> None:
        self._call.cancel()

    async def seen(self) -> cases.Seen:
        self._messages.put(None)  # or the thread that reads it would never end
        return await asyncio.to_thread(seen, self._call)

    def _next(self) -> bytes | None:
        try:
            return bytes(next(self._call))
        except (StopIteration, grpc.RpcError):
            return None


def compressed(metadata: cases.Metadata) -> tuple[grpc.Compression, cases.Metadata]:
    """Ask for compression both ways."""
    return grpc.Compression.Gzip, [*metadata, ("x-compress", "1")]


def seen(call: Any, *answers: bytes) -> cases.Seen:
    """Describe a finished call."""
    code = call.code().value[0]
    metadata = (call.initial_metadata() or (), call.trailing_metadata() or ())
    return cases.Seen(code, call.details() or "", answers, *metadata)


class Client:
    """The client."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    async def ask(
        self, path: str, message: bytes, metadata: cases.Metadata, compress: bool
    ) -> cases.Seen:
        kind, metadata = compressed(metadata) if compress else (None, metadata)
        method = self._channel.unary_unary(path)

        def ask() -> cases.Seen:
            try:
                answer, call = method.with_call(message, metadata=metadata, compression=kind)
            except grpc.RpcError as error:
                return seen(error)
            return seen(call, answer)

        return await asyncio.to_thread(ask)

    async def open(self, path: str, metadata: cases.Metadata, seconds: float | None) -> Duplex:
        return Duplex(self._channel.stream_stream(path), metadata, seconds)


async def call(port: int) -> None:
    """Play the cases."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        await cases.play(Client(channel))


if __name__ == "__main__":
    asyncio.run(call(int(sys.argv[2])) if sys.argv[1] == "call" else serve())
