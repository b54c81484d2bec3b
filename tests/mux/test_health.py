"""``grpc.health.v1`` on the multiplexer's own port, as grpcio's health stubs see it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http2_peer import connect
from multiplexer import Multiplexer, framed, multiplexer, table, until

from tei_manager.mux.health import MAX_LISTED, SERVICE_NAMES
from tei_manager.routes import Route, RouteState

pytestmark = pytest.mark.asyncio

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
PATH = "/grpc.health.v1.Health/"


def stub(mux: Multiplexer) -> Any:
    return health_pb2_grpc.HealthStub(mux.channel())


def ask(service: str) -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=service)


async def test_check_knows_the_whole_each_service_and_each_instance() -> None:
    stopped = Route("b", state=RouteState.STOPPED, ordinal=1)
    async with multiplexer(Route("a", port=1), stopped) as mux:
        health = stub(mux)
        for name in ("", "a", *SERVICE_NAMES):
            assert (await health.Check(ask(name))).status == SERVING
        assert (await health.Check(ask("b"))).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await health.Check(ask("xxx"))
        assert failure.value.code() is grpc.StatusCode.NOT_FOUND
        await mux.settled()


async def test_list_has_everything_that_check_knows() -> None:
    stopped = Route("b", state=RouteState.STOPPED, ordinal=1)
    async with multiplexer(Route("a", port=1), stopped) as mux:
        listed = (await stub(mux).List(health_pb2.HealthListRequest())).statuses
        assert {name: entry.status for name, entry in listed.items()} == {
            **dict.fromkeys(("", "a", *SERVICE_NAMES), SERVING),
            "b": NOT_SERVING,
        }


async def test_names_of_any_length_are_listed_whole() -> None:
    """Names that come from ``--route`` are not held to the control API's rule."""
    names = ["n" * 127, "n" * 128, "n" * 300, "ü" * 90]
    routes = [Route(name, port=1, ordinal=n) for n, name in enumerate(names)]
    async with multiplexer(*routes) as mux:
        listed = (await stub(mux).List(health_pb2.HealthListRequest())).statuses
        assert set(names) <= set(listed)


async def test_a_list_longer_than_its_bound_is_refused() -> None:
    async with multiplexer(*(Route(f"n{n}", ordinal=n) for n in range(MAX_LISTED))) as mux:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await stub(mux).List(health_pb2.HealthListRequest())
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_watch_tells_each_change_once_and_nothing_else() -> None:
    async with multiplexer() as mux:
        watch = stub(mux).Watch(ask("a"))
        assert (await watch.read()).status == SERVICE_UNKNOWN
        for version, (state, status) in enumerate(
            [
                (RouteState.STARTING, NOT_SERVING),
                (RouteState.RUNNING, SERVING),
                (RouteState.RUNNING, None),
                (RouteState.UNHEALTHY, NOT_SERVING),
                (RouteState.STOPPING, None),
            ]
        ):
            mux.worker.apply(table(Route("a", port=1, state=state), version=version))
            if status is not None:
                assert (await asyncio.wait_for(watch.read(), 2)).status == status
        mux.worker.apply(table(version=9))
        assert (await asyncio.wait_for(watch.read(), 2)).status == SERVICE_UNKNOWN
        watch.cancel()
        await until(lambda: not mux.switch.health._watchers)
        await mux.settled()


async def test_a_worker_that_drains_says_so_to_those_who_watch() -> None:
    async with multiplexer(Route("a", port=1)) as mux:
        watch = stub(mux).Watch(ask(""))
        assert (await watch.read()).status == SERVING
        mux.worker.drain()
        assert (await asyncio.wait_for(watch.read(), 2)).status == NOT_SERVING
        watch.cancel()


async def test_a_client_that_leaves_watches_no_more() -> None:
    async with multiplexer() as mux:
        async with connect(mux.port) as client:
            client.request(PATH + "Watch", data=framed(b""), end=True)
            await client.flush()
            await until(lambda: len(mux.switch.health._watchers) == 1)
            client.cut()
        await until(lambda: not mux.switch.health._watchers)
        await mux.settled()


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        ("Check", b"", 3),
        ("Watch", b"", 3),
        ("List", b"", 3),
        ("Check", framed(b"\x0a\x05ab"), 3),
        ("Check", framed(b"\x0a\x02\xff\xfe"), 3),
        ("Watch", framed(b"") * 2, 13),
        ("Check", b"\0\0", 3),
        ("Check", b"\0\0\x01\0\x01", 8),
    ],
)
async def test_a_malformed_question_gets_a_status(method: str, data: bytes, code: int) -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        call = client.request(PATH + method, data=data, end=True)
        await client.flush()
        got, message = await client.status(call)
        assert (got, bool(message)) == (code, True)
        await mux.settled()


async def test_a_watcher_that_never_reads_is_cut_off_before_it_costs_memory() -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        client.acknowledge = False
        call = client.request(PATH + "Watch", data=framed(b"\x0a\x01a"), end=True)
        await client.flush()
        await until(lambda: len(mux.switch.health._watchers) == 1)
        states = (RouteState.RUNNING, RouteState.STOPPED)
        for version in range(200_000):
            mux.switch.health.apply(table(Route("a", state=states[version % 2]), version=version))
            if not mux.switch.health._watchers:
                break
        assert not mux.switch.health._watchers
        assert mux.switch.pool.queued < 2 << 20
        client.h2.reset_stream(call, 8)
        await client.flush()
        await mux.settled()
