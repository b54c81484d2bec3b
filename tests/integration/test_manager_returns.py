"""A manager that comes back: callers notice neither that it was gone nor that it is another one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
from fake_tei import fake_tei
from manager_process import Home, answered, calling, connect, failures, fallen, more
from multiplexer import embed, path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

INSTANCES = ("stub", "fake", "stub", "fake")


@asynccontextmanager
async def home(folder: Path, homes: list[Home], **values: Any) -> AsyncIterator[Home]:
    async with fake_tei() as tei:
        homes.append(Home(folder, tei.port, **values))
        yield homes[-1]


async def survivors(pids: set[int]) -> list[Any]:
    """Return which of the processes do not end."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    _, alive = await asyncio.to_thread(psutil.wait_procs, processes, 60)
    return alive


@pytest.mark.parametrize(
    ("number", "on_exit"), [(signal.SIGKILL, "stop"), (signal.SIGTERM, "leave")]
)
async def test_no_call_fails_while_the_manager_is_gone_and_when_it_comes_back(
    tmp_path: Path, homes: list[Home], number: signal.Signals, on_exit: str
) -> None:
    async with home(tmp_path, homes, on_exit=on_exit) as here:
        async with here.manager() as manager:
            await manager.all_run()
            workers, instance = here.workers(), (await manager.instance("stub"))["pid"]
            assert len(workers) == 2
            async with (
                calling(here.address, *INSTANCES) as callers,
                connect(here.address) as channel,
            ):
                stream = channel.stream_stream(path("EmbedStream"))(timeout=200)
                await stream.write(embed("begun before", "fake"))
                assert await stream.read()
                before = await manager.samples_when(lambda now: answered(now) > 50)
                await manager.end(number)
                await more(callers)
                async with here.manager() as successor:
                    after = await successor.samples()
                    assert fallen(before, after) == []
                    await more(callers)
                    await stream.write(embed("goes on", "fake"))
                    assert await stream.read()
                    await stream.done_writing()
                    assert await stream.code() is grpc.StatusCode.OK
                    assert failures(callers) == []
                    assert here.workers() == workers
                    assert (await successor.instance("stub"))["pid"] == instance
                    assert (await successor.get("/health")).json()["workers"] == 2
        assert here.workers() == set()


async def test_workers_with_other_limits_are_replaced_without_a_failed_call(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with home(tmp_path, homes, on_exit="leave") as here, here.manager() as manager:
        await manager.all_run()
        old = here.workers()
        async with calling(here.address, *INSTANCES) as callers:
            before = await manager.samples_when(lambda now: answered(now) > 50)
            await manager.end(signal.SIGTERM)
            here.values["max_message_mb"] = 32
            async with here.manager() as successor:
                assert await survivors(old) == []
                await more(callers)
                assert failures(callers) == []
                assert len(here.workers()) == 2
                after = await successor.samples()
                assert fallen(before, after) == []
                key = "tei_manager_workers_replaced_total"
                assert after[key, (("reason", "outdated"),)] == 2
                assert after["tei_manager_workers", ()] == 2


async def test_a_worker_on_its_way_out_may_finish_when_its_manager_leaves_as_well(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with fake_tei() as tei:
        homes.append(here := Home(tmp_path, tei.port, on_exit="leave"))
        async with here.manager() as manager, connect(here.address) as channel:
            await manager.all_run()
            old = here.workers()
            call = asyncio.ensure_future(channel.unary_unary(path("Embed"))(embed("hold", "fake")))
            while (await tei.call(60)).method != "/tei.v1.Embed/Embed":
                pass
            await manager.end(signal.SIGTERM)
            here.values["max_message_mb"] = 32
            async with here.manager() as successor:
                ending = asyncio.create_task(successor.end(signal.SIGTERM))
                await asyncio.wait({ending, call}, timeout=3, return_when=asyncio.FIRST_COMPLETED)
                assert not call.done(), "nothing answers it yet, so nothing may end it"
                tei.release.set()
                assert await call
                assert await ending == 0
                assert await survivors(old) == []


async def test_a_new_port_is_served_and_the_old_one_is_given_up(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with home(tmp_path, homes) as here, here.manager() as manager:
        await manager.all_run()
        old, address = here.workers(), here.address
        await manager.end(signal.SIGKILL)
        here.values["grpc"] += 2  # the end of the instances' ports, of which one is used
        async with here.manager() as successor, calling(here.address, *INSTANCES) as callers:
            assert await survivors(old) == []
            assert failures(callers) == []
            assert (await successor.get("/health")).json()["workers"] == 2
            async with connect(address) as channel:
                with pytest.raises(grpc.aio.AioRpcError, match="UNAVAILABLE"):
                    await channel.unary_unary(path("Embed"))(embed("four", "fake"))


async def test_what_is_dead_or_hangs_is_replaced_and_what_serves_stays(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with home(tmp_path, homes, workers=3) as here, here.manager() as manager:
        await manager.end(signal.SIGKILL)
        dead, hung, sound = sorted(here.workers())
        os.kill(dead, signal.SIGKILL)
        os.kill(hung, signal.SIGSTOP)
        async with here.manager() as successor:
            workers = here.workers()
            assert len(workers) == 3
            assert workers & {dead, hung, sound} == {sound}
            assert (await successor.get("/health")).json()["workers"] == 3
            assert len(list((tmp_path / "run").glob("*.sock"))) == 3
