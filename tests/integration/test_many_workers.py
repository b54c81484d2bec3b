"""Two workers behind one socket: one that dies or hangs costs its own calls and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fake_tei import fake_tei
from manager_process import (
    Caller,
    Home,
    ManagerProcess,
    answered,
    failures,
    fallen,
    more,
)

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]


async def connections(folder: Path) -> dict[int, int]:
    """How many clients each worker has, as it says itself to whoever asks."""
    counts = {}
    for path in (folder / "run").glob("*.sock"):
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
        hello = json.loads(await reader.readline())
        counts[hello["pid"]] = json.loads(await reader.readline())["counters"]["client_connections"]
        writer.close()
    return counts


@asynccontextmanager
async def loaded(
    folder: Path, homes: list[Home]
) -> AsyncIterator[tuple[Home, ManagerProcess, list[Caller], int]]:
    """A manager with callers on both of its workers, and the number of one of them.

    The kernel gives a connection to the worker that asks first, so it takes a few until both have
    some.
    """
    async with fake_tei() as tei:
        homes.append(home := Home(folder, tei.port))
        async with home.manager() as manager:
            await manager.all_run()
            callers: list[Caller] = []
            try:
                while min((await connections(folder)).values()) < 2:
                    assert len(callers) < 64
                    callers.append(Caller(home.address, "fake"))
                    await callers[-1].more(1)
                yield home, manager, callers, min(home.workers())
            finally:
                await asyncio.gather(*(caller.stop() for caller in callers))


async def watch(manager: ManagerProcess, stop: asyncio.Event) -> list[object]:
    """Read the metrics without pause; return which series ever fell."""
    fell: list[object] = []
    before = await manager.samples()
    while not stop.is_set():
        now = await manager.samples()
        fell += fallen(before, now)
        before = now
    return fell


async def replaced(manager: ManagerProcess, reason: str) -> None:
    """Wait until the metrics say that one worker was, and that two serve."""
    key = "tei_manager_workers_replaced_total", (("reason", reason),)
    serve = "tei_manager_workers", ()
    await manager.samples_when(lambda now: now[key] == 1 and now[serve] == 2)


async def test_one_worker_killed_under_load_fails_its_own_calls_only_and_is_replaced(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with loaded(tmp_path, homes) as (home, manager, callers, victim):
        stop = asyncio.Event()
        watching = asyncio.create_task(watch(manager, stop))
        await manager.samples_when(lambda now: answered(now) > 50)
        its_own = (await connections(tmp_path))[victim]
        os.kill(victim, signal.SIGKILL)
        await more(callers)
        await replaced(manager, "ended")
        stop.set()
        assert await watching == []
        assert sum(bool(caller.failures) for caller in callers) <= its_own < len(callers)
        # One that was under way, and one that gRPC wrote to the socket before it saw its end.
        assert len(failures(callers)) <= 2 * its_own
        assert len(home.workers() - {victim}) == 2
        assert (await manager.get("/health")).json()["workers"] == 2


async def test_a_worker_that_hangs_is_replaced_while_the_other_serves_on(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with loaded(tmp_path, homes) as (home, manager, callers, victim):
        its_own = (await connections(tmp_path))[victim]
        os.kill(victim, signal.SIGSTOP)
        try:
            goes_on = [asyncio.create_task(caller.more(50)) for caller in callers]
            await asyncio.wait(goes_on, return_when=asyncio.FIRST_COMPLETED)
            assert not failures(callers), "the silence was not noticed yet"
            line = await manager.says("Multiplexer worker")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGCONT)
        assert f"worker {victim} says nothing; it was killed" in line
        await asyncio.gather(*goes_on)
        assert sum(bool(caller.failures) for caller in callers) <= its_own < len(callers)
        await replaced(manager, "silent")
        assert victim not in home.workers()


async def test_a_worker_that_is_told_to_drain_is_replaced_at_once_and_loses_no_call(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with loaded(tmp_path, homes) as (home, manager, callers, victim):
        before = await manager.samples_when(lambda now: answered(now) > 50)
        os.kill(victim, signal.SIGTERM)
        await replaced(manager, "drained")
        await more(callers)
        assert failures(callers) == []
        assert fallen(before, await manager.samples()) == []
        assert len(home.workers() - {victim}) == 2
