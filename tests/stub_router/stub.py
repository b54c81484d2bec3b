"""A stand-in for text-embeddings-router: its flags and services, canned vectors, and vices.

    --ignore-sigterm     only SIGKILL ends it
    --fork               leaves a child behind that ignores SIGTERM, too
    --die-after=S        exits with code 7 after S seconds, with a last line in its log
    --die-if=FILE        exits with code 7 at the start, if the file is there
    --never-healthy      listens, but its health service never says SERVING
    --slow-start=S       listens after S seconds only
    --hang               answers nothing once it was healthy and SIGUSR1 came, until SIGUSR2
    --speak-http         answers HTTP/1 on its port

The vector for a text is the four numbers of `vector`, so that a caller can tell it from another's.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc


def vector(text: str) -> list[float]:
    """The embedding that the stub gives for a text."""
    return [float(len(text)), 1.0, 2.0, 3.0]


Context = grpc.aio.ServicerContext[Any, Any]


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class Gate:
    """Open, calls are answered; closed, they wait."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()


class Info(tei_pb2_grpc.InfoServicer):
    def __init__(self, model_id: str, gate: Gate) -> None:
        self._model_id, self._gate = model_id, gate

    async def Info(  # noqa: N802
        self, request: tei_pb2.InfoRequest, context: Context
    ) -> tei_pb2.InfoResponse:
        await self._gate.open.wait()
        return tei_pb2.InfoResponse(version="stub", model_id=self._model_id)


class Embed(tei_pb2_grpc.EmbedServicer):
    async def Embed(  # noqa: N802
        self, request: tei_pb2.EmbedRequest, context: Context
    ) -> tei_pb2.EmbedResponse:
        return tei_pb2.EmbedResponse(embeddings=vector(request.inputs))

    async def EmbedStream(  # noqa: N802
        self, requests: AsyncIterator[tei_pb2.EmbedRequest], context: Context
    ) -> AsyncIterator[tei_pb2.EmbedResponse]:
        async for request in requests:
            yield tei_pb2.EmbedResponse(embeddings=vector(request.inputs))


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # it has no types
    def __init__(self, serving: bool) -> None:
        self._serving = serving

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        good = self._serving and request.service == "tei.v1.Embed"
        status = health_pb2.HealthCheckResponse
        return status(status=status.SERVING if good else status.NOT_SERVING)


def read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("model-id", "hostname", "revision", "dtype", "pooling", "die-if"):
        parser.add_argument(f"--{flag}")
    for flag in ("port", "prometheus-port", "max-batch-tokens", "max-concurrent-requests"):
        parser.add_argument(f"--{flag}", type=int)
    for flag in ("die-after", "slow-start"):
        parser.add_argument(f"--{flag}", type=float)
    for flag in ("json-output", "ignore-sigterm", "fork", "never-healthy", "hang", "speak-http"):
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args()


def fork_child() -> None:
    """Leave a child behind that only SIGKILL ends."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
        os._exit(0)


async def die(seconds: float) -> None:
    await asyncio.sleep(seconds)
    say("the stub dies as it was told")
    os._exit(7)


async def speak_http(host: str, port: int) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, host, port)
    await server.serve_forever()


async def serve(flags: argparse.Namespace, stop: asyncio.Event) -> None:
    gate = Gate()
    if flags.hang:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, gate.open.clear)
        loop.add_signal_handler(signal.SIGUSR2, gate.open.set)
    server = grpc.aio.server()
    tei_pb2_grpc.add_InfoServicer_to_server(Info(flags.model_id, gate), server)
    tei_pb2_grpc.add_EmbedServicer_to_server(Embed(), server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(not flags.never_healthy), server)
    server.add_insecure_port(f"{flags.hostname}:{flags.port}")
    await server.start()
    say("Ready")
    await stop.wait()
    await server.stop(0)


async def run(flags: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: None) if flags.ignore_sigterm else stop.set)
    tasks = [asyncio.create_task(die(flags.die_after))] if flags.die_after is not None else []
    if flags.slow_start:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), flags.slow_start)
    if flags.speak_http:
        tasks.append(asyncio.create_task(speak_http(flags.hostname, flags.port)))
        await stop.wait()
    elif not stop.is_set():
        await serve(flags, stop)
    for task in tasks:
        task.cancel()


def main() -> None:
    flags = read_flags()
    say(f"environment: {sorted(os.environ)}")
    if flags.die_if and Path(flags.die_if).exists():
        say("Error: the stub finds the file that kills it")
        sys.exit(7)
    if flags.fork:
        fork_child()
    asyncio.run(run(flags))


if __name__ == "__main__":
    main()
