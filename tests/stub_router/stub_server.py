"""What the stub serves once its flags are read: canned vectors over gRPC, or HTTP/1."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from stub import say
from te_metrics import te_page

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc


def vector(text: str) -> list[float]:
    """The embedding that the stub gives for a text, which a caller can tell from another's."""
    return [float(len(text)), 1.0, 2.0, 3.0]


Context = grpc.aio.ServicerContext[Any, Any]


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
    def __init__(self, broken: bool, gate: Gate) -> None:
        self._broken, self._gate = broken, gate

    async def Embed(  # noqa: N802
        self, request: tei_pb2.EmbedRequest, context: Context
    ) -> tei_pb2.EmbedResponse:
        await self._gate.open.wait()
        if self._broken:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Backend error: as told")
        return tei_pb2.EmbedResponse(embeddings=vector(request.inputs))

    async def EmbedStream(  # noqa: N802
        self, requests: AsyncIterator[tei_pb2.EmbedRequest], context: Context
    ) -> AsyncIterator[tei_pb2.EmbedResponse]:
        async for request in requests:
            await self._gate.open.wait()
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


async def tell_metrics(host: str, port: int) -> None:
    """Answer every scrape, as the router's own exporter does."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = te_page().encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
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
    tei_pb2_grpc.add_EmbedServicer_to_server(Embed(flags.broken, gate), server)
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
    if flags.prometheus_port:
        tasks.append(asyncio.create_task(tell_metrics(flags.hostname, flags.prometheus_port)))
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
