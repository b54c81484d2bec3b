"""The end of a manager with 1,000 calls under way: none is lost, unless it has to be quick."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from fake_tei import FakeTei, fake_tei
from grpc_health.v1 import health_pb2
from manager_process import Home, ManagerProcess, connect
from multiplexer import embed, path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

CLIENTS, CALLS = 5, 200


@asynccontextmanager
async def busy(
    folder: Path, homes: list[Home], calls: int
) -> AsyncIterator[tuple[Home, ManagerProcess, FakeTei, Any, list[Any]]]:
    """A manager with calls under way that wait for ``tei.release``, and a health watch."""
    async with fake_tei() as tei, AsyncExitStack() as stack:
        homes.append(home := Home(folder, tei.port))
        manager = await stack.enter_async_context(home.manager())
        await manager.all_run()
        channels = [await stack.enter_async_context(connect(home.address)) for _ in range(CLIENTS)]
        health = channels[0].unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await serving(health) == health_pb2.HealthCheckResponse.SERVING
        under_way = [
            asyncio.ensure_future(channel.unary_unary(path("Embed"))(embed("hold", "fake")))
            for channel in channels
            for _ in range(calls)
        ]
        for _ in range(len(under_way)):
            while (await tei.call(60)).method != "/tei.v1.Embed/Embed":
                pass
        yield home, manager, tei, health, under_way


async def serving(health: Any) -> int:
    return int(health_pb2.HealthCheckResponse.FromString(await health.read()).status)


async def test_sigterm_with_1000_calls_under_way_loses_none(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with busy(tmp_path, homes, CALLS) as (home, manager, tei, health, calls):
        ending = asyncio.create_task(manager.end(signal.SIGTERM))
        assert await serving(health) == health_pb2.HealthCheckResponse.NOT_SERVING
        health.cancel()
        assert not any(call.done() for call in calls)
        tei.release.set()
        assert len(await asyncio.gather(*calls)) == CLIENTS * CALLS
        assert await ending == 0
        assert home.workers() == set()


async def test_a_second_sigterm_waits_for_no_call(tmp_path: Path, homes: list[Home]) -> None:
    async with busy(tmp_path, homes, 1) as (home, manager, _, health, calls):
        ending = asyncio.create_task(manager.end(signal.SIGTERM))
        assert await serving(health) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await manager.end(signal.SIGTERM) == 0
        assert await ending == 0
        for call in calls:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with contextlib.suppress(grpc.aio.AioRpcError):
            await health.read()
        assert home.workers() == set()
