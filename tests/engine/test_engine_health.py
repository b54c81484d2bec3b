from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tei_manager.engine import health as health_module
from tei_manager.engine.health import Health
from tei_manager.engine.kinds import Kind

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SECONDS = 10

Request = health_pb2.HealthCheckRequest


class Model:
    """Stands in for the model: fails until it is mended, and can be held."""

    def __init__(self) -> None:
        self.works = True
        self.probes = 0
        self.gate = asyncio.Event()

    async def probe(self) -> None:
        self.probes += 1
        await self.gate.wait()
        if not self.works:
            raise RuntimeError("still broken")


@asynccontextmanager
async def _served(model: Model) -> AsyncIterator[tuple[Health, Any]]:
    health = Health(Kind.EMBEDDING, model.probe)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([health.handlers()])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        yield health, stub
    await health.close()
    await server.stop(0)


def test_an_embedding_model_serves_what_it_can(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    states = {
        name: stub.Check(Request(service=name)).status
        for name in ("", *(f"tei.v1.{part}" for part in ("Info", "Tokenize", "Embed")))
    }
    assert set(states.values()) == {SERVING}
    for name in ("tei.v1.Predict", "tei.v1.Rerank"):
        assert stub.Check(Request(service=name)).status == NOT_SERVING
    assert len(stub.List(health_pb2.HealthListRequest()).statuses) == 6


def test_an_unknown_name_is_not_found_in_both_methods(channel: grpc.Channel) -> None:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    for call in (stub.Check, lambda request: list(stub.Watch(request))):
        with pytest.raises(grpc.RpcError) as refusal:
            call(Request(service="tei.v1.Nothing"))
        error: Any = refusal.value
        assert (error.code(), error.details()) == (
            grpc.StatusCode.NOT_FOUND,
            "service not registered",
        )


@pytest.mark.asyncio
async def test_a_model_that_failed_comes_back_without_anybodys_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(health_module, "RETRY_SECONDS", 0)
    model = Model()
    model.works = False
    async with _served(model) as (health, stub):
        watch = stub.Watch(Request(service="tei.v1.Embed"))
        states = [(await watch.read()).status]
        health.batch_failed()
        health.batch_failed()
        states.append((await watch.read()).status)
        model.works = True
        model.gate.set()
        states.append((await asyncio.wait_for(watch.read(), SECONDS)).status)
    assert states == [SERVING, NOT_SERVING, SERVING]
    assert model.probes == 1, "a second failure while the first is looked into starts nothing"


@pytest.mark.asyncio
async def test_closing_tells_the_watches_and_ends_them() -> None:
    async with _served(Model()) as (health, stub):
        watch = stub.Watch(Request(service="tei.v1.Embed"))
        states = [(await watch.read()).status]
        await health.close()
        states.append((await watch.read()).status)
        assert states == [SERVING, NOT_SERVING]
        assert not isinstance(await watch.read(), health_pb2.HealthCheckResponse)
        assert await watch.code() is grpc.StatusCode.OK
