"""The state file: what was answered is in it, and a file that it cannot trust stays untouched."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tei_manager.errors import StateFailed
from tei_manager.manager.instance import Desired, Origin, Record
from tei_manager.manager.store import EVENTS_KEPT, VERSION, Store
from tei_manager.settings import InstanceSpec

pytestmark = pytest.mark.asyncio

SPEC = InstanceSpec(name="a", model_id="org/model", extra_args=("--x=1",), pooling="mean")


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = Store(path)
    try:
        yield store
    finally:
        await store.close()


async def _insert(store: Store, name: str = "a") -> Record:
    spec = SPEC.model_copy(update={"name": name})
    return await store.insert(spec, 8081, 9100, Desired.RUNNING, Origin.API)


async def test_everything_of_a_record_comes_back_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.db"
    async with opened(path) as store:
        record = await _insert(store)
        changed = replace(record, port=8090, desired=Desired.STOPPED, restarts=3)
        await store.update(changed)
        await store.remember("a", "kind", "detail")
    async with opened(path) as store:
        assert await store.records() == [changed]
        (entry,) = await store.history("a")
        assert (entry.kind, entry.detail) == ("kind", "detail")


async def test_ordinals_are_never_used_again(tmp_path: Path) -> None:
    async with opened(tmp_path / "state.db") as store:
        first = await _insert(store)
        await store.delete(first)
        assert (await _insert(store)).ordinal > first.ordinal


async def test_history_goes_with_its_instance_and_is_bounded(tmp_path: Path) -> None:
    async with opened(tmp_path / "state.db") as store:
        record = await _insert(store)
        await _insert(store, "b")
        await store.remember("b", "kind", "")
        for number in range(EVENTS_KEPT + 5):
            await store.remember("a", "kind", str(number))
        kept = await store.history("a")
        assert len(kept) == EVENTS_KEPT
        assert kept[-1].detail == str(EVENTS_KEPT + 4)
        assert len(await store.history("b")) == 1
        await store.delete(record)
        assert await store.history("a") == []
        await store.remember("a", "late news", "of an instance that is gone")
        assert await store.history("a") == []


async def test_second_manager_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    async with opened(tmp_path / "state.db"):
        with pytest.raises(StateFailed, match=r"Another TEI Manager \(pid \d+\)"):
            Store(tmp_path / "state.db")
    async with opened(tmp_path / "state.db"):
        pass


@pytest.mark.parametrize(
    "content", [b"\n", b"not a database", b"SQLite format 3\0" + b"\xff" * 200]
)
async def test_file_that_is_no_database_is_left_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.db"
    path.write_bytes(content)
    with pytest.raises(StateFailed, match="cannot be used"):
        Store(path)
    assert path.read_bytes() == content
    path.unlink()
    async with opened(path):
        pass  # the lock of the failed attempt is gone


async def test_newer_file_is_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateFailed, match="newer than this program knows"):
        Store(path)
    assert path.read_bytes() == before


async def test_damaged_history_is_named_when_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path) as store:
        await _insert(store)
        await store.remember("a", "ready", "")
    db = sqlite3.connect(path)
    db.execute("UPDATE events SET at = 'yesterday'")
    db.commit()
    db.close()
    async with opened(path) as store:
        with pytest.raises(StateFailed, match="history of instance 'a' is damaged"):
            await store.history("a")


async def test_damaged_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path) as store:
        await _insert(store)
    db = sqlite3.connect(path)
    db.execute("UPDATE instances SET port = port + 1")  # what any reader would take for good
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(StateFailed, match="'a' is damaged; restore a backup"):
        Store(path)
    assert path.read_bytes() == before
    assert not path.with_name("state.db-wal").exists()


async def test_file_of_the_first_version_is_sealed_and_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    async with opened(path) as store:
        record = await _insert(store)
    db = sqlite3.connect(path)
    db.executescript("ALTER TABLE instances DROP COLUMN checksum; PRAGMA user_version = 1;")
    db.close()
    for _ in range(2):  # by the one that seals, and by one that checks
        async with opened(path) as store:
            assert await store.records() == [record]


async def test_failed_write_changes_nothing_and_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path / "state.db") as store:
        record = await _insert(store)
        with pytest.raises(StateFailed, match="nothing was changed"):
            await _insert(store)
        assert await store.records() == [record]


_KILLED = """
import asyncio, os, sys
from pathlib import Path
from tei_manager.manager.instance import Desired, Origin
from tei_manager.manager.store import Store
from tei_manager.settings import InstanceSpec

async def main():
    store = Store(Path(sys.argv[1]))
    spec = InstanceSpec(name="a", model_id="m")
    await store.insert(spec, 1, 2, Desired.RUNNING, Origin.API)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    command = [sys.executable, "-c", _KILLED, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, timeout=30, check=False)
    assert done.returncode == -9
    async with opened(path) as store:
        assert [record.spec.name for record in await store.records()] == ["a"]
