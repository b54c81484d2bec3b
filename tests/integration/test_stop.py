"""A stop with calls under way: they have half of the time-out, and the rest of them fail."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from control_plane import Rig, alive, running
from manager_process import connect
from multiplexer import embed, path

from tei_manager.manager.lifecycle import Event
from tei_manager.manager.workers import COMMAND

pytestmark = pytest.mark.asyncio

ROUTED = 'tei_grpc_pool_requests_total{instance="a",method="embed"} 1.0'


@dataclass
class Held:
    """A call that an instance has and does not answer until it is told."""

    rig: Rig
    pid: int
    call: asyncio.Future[bytes]

    def release(self) -> None:
        os.kill(self.pid, signal.SIGUSR2)

    async def failure(self) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call
        return caught.value


@asynccontextmanager
async def held(folder: Path, stop_timeout_secs: float) -> AsyncIterator[Held]:
    """A manager with a real worker, an instance, and a call that this holds."""
    rules: dict[str, Any] = {"instances": {"stop_timeout_secs": stop_timeout_secs}}
    rules["health"] = {"interval_secs": 3600.0}
    async with running(folder, worker=COMMAND, **rules) as rig:
        view = await rig.create("a", "--hang", wait=60)
        assert view["status"] == "running", view
        os.kill(view["pid"], signal.SIGUSR1)
        address = "{}:{}".format(*rig.manager.address)
        async with connect(address) as channel, asyncio.timeout(60):
            call = asyncio.ensure_future(channel.unary_unary(path("Embed"))(embed(), timeout=60))
            while ROUTED not in (await rig.api.get("/metrics")).text:
                await asyncio.wait({call}, timeout=0.05)
                assert not call.done(), "the instance does not hold it"
            yield Held(rig, view["pid"], call)


async def test_call_under_way_is_answered_while_its_instance_is_being_stopped(
    tmp_path: Path,
) -> None:
    async with held(tmp_path, stop_timeout_secs=60) as it:
        assert (await it.rig.post("a", "stop", wait=0))["status"] == "stopping"
        assert (await it.rig.post("a", "stop", wait=0.3))["status"] == "stopping"
        assert alive(it.pid), "it has a call to answer"
        it.release()
        assert await it.call
        assert (await it.rig.until("a", "stopped"))["pid"] is None


async def test_call_that_takes_longer_than_half_of_the_time_out_fails_with_its_cause(
    tmp_path: Path,
) -> None:
    async with held(tmp_path, stop_timeout_secs=1) as it:
        answer = await it.rig.api.delete("/instances/a")
        failure = await it.failure()
        assert answer.status_code == 204
        assert failure.code() is grpc.StatusCode.UNAVAILABLE
        assert failure.details() == "instance 'a' was stopped before it had answered"
        assert not alive(it.pid)


async def test_hung_instance_keeps_nobody_waiting_once_it_is_given_up(
    tmp_path: Path,
) -> None:
    async with held(tmp_path, stop_timeout_secs=60) as it:
        supervisor = it.rig.manager.registry.get("a")
        supervisor._post(supervisor._generation, Event.HOPELESS, "as the probes would say")
        assert (await it.failure()).code() is grpc.StatusCode.UNAVAILABLE
        assert (await it.rig.until("a", "running"))["pid"] != it.pid
