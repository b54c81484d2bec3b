"""What one gets with gRPC's own library: a pass-through of undecoded messages on `grpc.aio`.

python -m benchmarks.peers.grpc_aio PORT BACKEND WORKERS
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import grpc.aio

from benchmarks.peers.forking import fork
from benchmarks.peers.peer import Peer, core_for
from benchmarks.peers.tls import Tls
from benchmarks.processes import children_of, free_port, running

NAME = "grpc.aio"

_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 1),
]


@contextmanager
def grpc_aio(backend: str, workers: int = 1, tls: Tls | None = None) -> Iterator[Peer]:
    """Run the pass-through in so many processes.

    Raises:
        FileNotFoundError: TLS is asked for, which is not made here.
    """
    if tls:
        raise FileNotFoundError(f"{NAME} with TLS")
    port = free_port()
    argv = [sys.executable, "-m", "benchmarks.peers.grpc_aio", str(port), backend, str(workers)]
    with running(argv, port, core_for(workers)) as pid:
        yield Peer(NAME, port, (pid, *children_of(pid, workers - 1)))


class _PassThrough(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Makes of every call one to the backend, by the same method; "…Stream" is bidirectional."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method
        if method.endswith("Stream"):
            return grpc.stream_stream_rpc_method_handler(self._stream(method))
        return grpc.unary_unary_rpc_method_handler(self._unary(method))

    def _unary(self, method: str) -> Any:
        ask = self._channel.unary_unary(method)

        async def serve(request: bytes, context: Any) -> bytes:
            metadata = _travelling(context)
            answer: bytes = await ask(request, metadata=metadata, timeout=context.time_remaining())
            return answer

        return serve

    def _stream(self, method: str) -> Any:
        ask = self._channel.stream_stream(method)

        async def serve(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            metadata = _travelling(context)
            call = ask(requests, metadata=metadata, timeout=context.time_remaining())
            async for answer in call:
                yield answer

        return serve


def _travelling(context: Any) -> list[tuple[str, Any]]:
    metadata = context.invocation_metadata() or ()
    return [(key, value) for key, value in metadata if key != "user-agent"]


async def _main(port: str, backend: str) -> None:
    server = grpc.aio.server(options=_OPTIONS)
    async with grpc.aio.insecure_channel(backend, _OPTIONS) as channel:
        server.add_generic_rpc_handlers([_PassThrough(channel)])
        server.add_insecure_port(f"127.0.0.1:{port}")
        await server.start()
        await server.wait_for_termination()


def main(port: str, backend: str, workers: str) -> None:
    """Pass calls on until the process is ended."""
    fork(int(workers))
    asyncio.run(_main(port, backend))


if __name__ == "__main__":
    main(*sys.argv[1:])
