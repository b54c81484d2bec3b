"""Workers: fed, replaced when they die, told off when they do not start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from control_plane import FAKE_WORKER, alive

from tei_manager.errors import LaunchFailed
from tei_manager.manager.takeover import Takeover
from tei_manager.manager.workers import Workers
from tei_manager.routes import Route, RouteTable

pytestmark = pytest.mark.asyncio

TABLE = RouteTable(7, [Route("a", "m", port=1)])


def _workers(folder: Path, listener: socket.socket, count: int = 1, *command: str) -> Workers:
    run, logs = folder / "run", folder / "logs"
    return Workers(count, {}, Takeover(listener), run, logs, command or FAKE_WORKER)


@asynccontextmanager
async def started(folder: Path, count: int = 1) -> AsyncIterator[Workers]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers = _workers(folder, listener, count)
        await workers.start()
        try:
            yield workers
        finally:
            await workers.stop(5)


async def test_table_is_acknowledged_by_all_workers(tmp_path: Path) -> None:
    async with started(tmp_path, 2) as workers:
        workers.publish(TABLE)
        assert await workers.acknowledged(7)
        assert [link.applied for link in workers.links] == [7, 7]


async def test_worker_that_does_not_answer_is_waited_for_within_a_limit(tmp_path: Path) -> None:
    async with started(tmp_path) as workers:
        (tmp_path / "run" / "mute").touch()
        workers.publish(TABLE)
        assert not await workers.acknowledged(7, limit=0.1)


async def test_replacement_of_a_dead_worker_gets_the_table_first_thing(tmp_path: Path) -> None:
    async with started(tmp_path) as workers:
        workers.publish(TABLE)
        await workers.acknowledged(7)
        pid = workers.links[0].pid
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            await workers._until(lambda: workers.serving == 0)
            assert await workers.acknowledged(8), "nobody serves, so nobody is waited for"
            await workers._until(lambda: any(link.applied == 7 for link in workers.links))
        assert workers.links[0].pid != pid


async def test_worker_that_closes_its_control_socket_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.worker.ACK_LIMIT", 0.1)
    async with started(tmp_path) as workers:
        pid = workers.links[0].pid
        workers.links[0]._writer.write(b"no json\n")  # the fake worker has no patience with it
        async with asyncio.timeout(10):
            await workers._until(lambda: bool(workers.links) and workers.links[0].pid != pid)
        assert not alive(pid)


async def test_worker_that_does_not_start_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.workers.READY_LIMIT", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers = _workers(tmp_path, listener, 1, sys.executable, "-c", "raise SystemExit('oh no')")
        with pytest.raises(LaunchFailed, match="oh no"):
            await workers.start()


async def test_path_too_long_for_a_socket_is_said_before_anything_starts(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(LaunchFailed, match="too long"),
    ):
        _workers(tmp_path / ("x" * 100), listener)


async def test_control_sockets_are_for_their_owner_only(tmp_path: Path) -> None:
    async with started(tmp_path):
        assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


async def test_stop_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    async with started(tmp_path, 2) as workers:
        pids = [link.pid for link in workers.links]
    assert not any(alive(pid) for pid in pids)
    assert list((tmp_path / "run").glob("*.sock")) == []
    assert workers.serving == 0
