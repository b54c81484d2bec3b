"""A disk that is full while instances crash: they are looked after, and written down later."""

from __future__ import annotations

import logging
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from control_plane import Rig, alive, running
from multiplexer import until

from tei_manager.errors import StateFailed
from tei_manager.manager import backlog
from tei_manager.manager.backlog import Backlog
from tei_manager.manager.instance import Desired, Origin
from tei_manager.manager.store import Store
from tei_manager.settings import InstanceSpec

pytestmark = pytest.mark.asyncio


@contextmanager
def full_disk(store: Store) -> Iterator[None]:
    """No file of this process grows beyond what the store's log has; SQLite meets it as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = store.path.with_name(f"{store.path.name}-wal")
    resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def _crashed(rig: Rig, name: str) -> Any:
    """Kill an instance's process and return how it is when it runs again."""
    before = await rig.show(name)
    os.kill(before["pid"], signal.SIGKILL)
    await rig.until(name, "starting", "failed")
    return before, await rig.until(name, "running", "failed")


async def test_instance_that_crashes_on_a_full_disk_is_started_and_written_down_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backlog, "PAUSE", 0.05)
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as rig:
        await rig.create("a")
        await rig.create("b")
        store = rig.manager.registry.store
        with full_disk(store):
            assert (await rig.post("b", "stop"))["code"] == "IO_ERROR"
            for _ in range(2):
                before, after = await _crashed(rig, "a")
                assert after["status"] == "running", after
                assert after["pid"] != before["pid"]
            assert after["restarts"] == 2
            assert (await rig.api.get("/health")).json()["status"] == "degraded"
            events = [each["event"] for each in (await rig.api.get("/instances/a/events")).json()]
            assert events.count("process ended") == 2
            (record,) = [each for each in await store.records() if each.spec.name == "a"]
            assert record.restarts == 0
        assert sum("kept in memory" in each.message for each in caplog.records) == 1
        await until(lambda: not rig.manager.registry.backlog.waits)
        assert (await rig.api.get("/health")).json()["status"] == "healthy"
        records = {each.spec.name: each for each in await store.records()}
        assert records["a"] == rig.manager.registry.get("a").record
        written = [entry.kind for entry in await store.history("a")]
        assert written == events


@pytest.mark.parametrize("room", [True, False], ids=["has-room", "is-full"])
async def test_manager_leaves_only_what_the_next_one_can_find(tmp_path: Path, room: bool) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        store = rig.manager.registry.store
        with full_disk(store):
            _, after = await _crashed(rig, "a")
            if not room:
                await rig.manager.stop(leave=True)
        if room:
            await rig.manager.stop(leave=True)
    assert alive(after["pid"]) is room
    async with running(tmp_path) as rig:
        found = await rig.until("a", "running")
        assert (found["pid"] == after["pid"]) is room


async def test_late_write_of_an_older_record_never_covers_a_newer_one(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    waiting = Backlog(store)
    spec = InstanceSpec(name="a", model_id="m")
    record = await store.insert(spec, 1, 2, Desired.RUNNING, Origin.API)
    with full_disk(store):
        await waiting.keep(replace(record, restarts=1))
        await waiting.remember("a", "process ended", "")
        with pytest.raises(StateFailed):
            await waiting.flush()
    newer = replace(record, restarts=2, desired=Desired.STOPPED)
    await waiting.update(newer)
    assert not waiting.has(record)
    await waiting.close()
    assert await store.records() == [newer]
    assert [entry.kind for entry in await store.history("a")] == ["process ended"]
    await store.close()


async def test_nothing_waits_of_an_instance_that_is_deleted(tmp_path: Path) -> None:
    store = Store(tmp_path / "state.db")
    waiting = Backlog(store)
    spec = InstanceSpec(name="a", model_id="m")
    record = await store.insert(spec, 1, 2, Desired.RUNNING, Origin.API)
    with full_disk(store):
        await waiting.keep(record)
        await waiting.remember("a", "process ended", "")
    await waiting.delete(record)
    assert not waiting.waits
    again = await store.insert(spec, 1, 2, Desired.RUNNING, Origin.API)
    await waiting.close()
    assert await store.records() == [again]
    assert await store.history("a") == []
    await store.close()
