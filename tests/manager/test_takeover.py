"""What an earlier manager left is found, sorted, and never taken from callers without need."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from control_plane import FAKE_WORKER, alive

from tei_manager.errors import LaunchFailed
from tei_manager.manager.link import reach
from tei_manager.manager.takeover import Takeover, take_over
from tei_manager.manager.workers import Workers
from tei_manager.routes import Route, RouteTable
from tei_manager.unix_socket import UnixAddress

pytestmark = pytest.mark.asyncio

OPTIONS = {"max_message_mb": 1}
TABLE = RouteTable(7, [Route("a", "m", port=1)])


def _write(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document))


def sockets(folder: Path) -> list[Path]:
    return list(folder.glob("*.sock"))


@asynccontextmanager
async def left(
    folder: Path,
    *names: str,
    host: str = "127.0.0.1",
    unix: UnixAddress | None = None,
    **hello: Any,
) -> AsyncIterator[tuple[list[subprocess.Popen[bytes]], int]]:
    """Workers that an earlier manager left, and their port; killed at the end."""
    _write(folder / "hello", hello)
    workers = []
    with contextlib.ExitStack() as ours:
        listener = ours.enter_context(socket.create_server((host, 0)))
        numbers = [listener.fileno()]
        if unix is not None:
            numbers.append(ours.enter_context(unix.bind(1)).fileno())
        inherited = [flag for number in numbers for flag in ("--listen-fd", str(number))]
        for name in names:
            flags = (*inherited, "--control", str(folder / name), "--config", json.dumps(OPTIONS))
            workers.append(
                subprocess.Popen(  # noqa: ASYNC220  # it does not wait
                    [*FAKE_WORKER, *flags], pass_fds=numbers, start_new_session=True
                )
            )
        port = listener.getsockname()[1]
        for name in names:
            (await reach(folder / name, 20)).close()
    (folder / "hello").unlink()
    try:
        yield workers, port
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


async def taken(
    folder: Path,
    port: int,
    count: int = 2,
    host: str = "127.0.0.1",
    unix: UnixAddress | None = None,
) -> Takeover:
    return await take_over(host, port, OPTIONS, count, folder, folder, unix)


@asynccontextmanager
async def released(takeover: Takeover) -> AsyncIterator[Takeover]:
    try:
        yield takeover
    finally:
        for listener in takeover.listeners:
            listener.close()
        for worker in (*takeover.workers, *takeover.outdated):
            await worker.release()


def pids(workers: tuple[Any, ...]) -> list[int]:
    return [worker.process.pid for worker in workers]


async def test_workers_and_their_socket_are_found(tmp_path: Path) -> None:
    async with left(tmp_path, "worker-0.sock", "worker-3.sock") as (processes, port):
        for wanted in (port, 0):
            async with released(await taken(tmp_path, wanted)) as takeover:
                assert pids(takeover.workers) == [process.pid for process in processes]
                assert takeover.outdated == ()
                assert takeover.listener.getsockname() == ("127.0.0.1", port)
                assert not takeover.listener.getblocking()


async def test_nothing_left_binds_the_port_anew_and_removes_dead_sockets(tmp_path: Path) -> None:
    (tmp_path / "worker-9.sock").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "worker-0.sock"))
    async with released(await taken(tmp_path, 0)) as takeover:
        assert takeover.workers == takeover.outdated == ()
        assert takeover.listener.getsockname()[1] > 0
    assert sockets(tmp_path) == []


@pytest.mark.parametrize(
    "hello", [{"version": "0.0.1"}, {"protocol": 99}, {"options": {"max_message_mb": 2}}]
)
async def test_worker_that_differs_serves_until_it_is_replaced(
    tmp_path: Path, hello: dict[str, Any]
) -> None:
    async with (
        left(tmp_path, "worker-0.sock", **hello) as (processes, port),
        released(await taken(tmp_path, port)) as takeover,
    ):
        assert (pids(takeover.workers), pids(takeover.outdated)) == ([], [processes[0].pid])
        assert takeover.listener.getsockname()[1] == port, "the same door for the next one"
        assert alive(processes[0].pid)


async def test_one_too_many_has_to_go(tmp_path: Path) -> None:
    async with (
        left(tmp_path, "worker-0.sock", "worker-1.sock") as (processes, port),
        released(await taken(tmp_path, port, count=1)) as takeover,
    ):
        assert pids(takeover.workers) == [processes[0].pid]
        assert pids(takeover.outdated) == [processes[1].pid]


async def test_other_port_is_bound_beside_the_workers_that_still_serve(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        other = probe.getsockname()[1]
    async with (
        left(tmp_path, "worker-0.sock") as (processes, _),
        released(await taken(tmp_path, other)) as takeover,
    ):
        assert takeover.listener.getsockname()[1] == other
        assert pids(takeover.outdated) == [processes[0].pid]


async def test_port_of_another_program_is_named_and_costs_the_workers_nothing(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        async with left(tmp_path, "worker-0.sock") as (processes, port):
            with pytest.raises(LaunchFailed, match="Cannot listen on"):
                await taken(tmp_path, squatter.getsockname()[1])
            async with released(await taken(tmp_path, port)) as takeover:
                assert pids(takeover.workers) == [processes[0].pid]


async def test_same_port_on_another_host_is_given_up_by_who_holds_it(tmp_path: Path) -> None:
    async with (
        left(tmp_path, "worker-0.sock") as (_, port),
        released(await taken(tmp_path, port, host="0.0.0.0")) as takeover,
    ):
        assert takeover.listener.getsockname() == ("0.0.0.0", port)


def reaches(path: Path) -> bool:
    """Whether somebody listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


async def test_the_unix_socket_is_taken_over_with_the_port_and_gets_the_mode_of_now(
    tmp_path: Path,
) -> None:
    unix = UnixAddress(tmp_path / "u")
    async with left(tmp_path, "worker-0.sock", "worker-1.sock", unix=unix) as (processes, port):
        wanted = UnixAddress(tmp_path / "u", 0o666)
        async with released(await taken(tmp_path, port, unix=wanted)) as takeover:
            assert pids(takeover.workers) == [process.pid for process in processes]
            assert takeover.unix is not None
            assert takeover.unix.getsockname() == str(unix.path)
            assert unix.path.stat().st_mode & 0o777 == 0o666


@pytest.mark.parametrize(("before", "now"), [("u", "v"), ("u", ""), ("", "v")])
async def test_another_unix_socket_comes_with_other_workers(
    tmp_path: Path, before: str, now: str
) -> None:
    old = UnixAddress(tmp_path / before) if before else None
    new = UnixAddress(tmp_path / now) if now else None
    async with (
        left(tmp_path, "worker-0.sock", unix=old) as (processes, port),
        released(await taken(tmp_path, port, unix=new)) as takeover,
    ):
        assert (pids(takeover.workers), pids(takeover.outdated)) == ([], [processes[0].pid])
        assert takeover.listener.getsockname()[1] == port
        assert not (old and old.path.exists())
        assert new is None or reaches(new.path)


async def test_a_unix_socket_whose_file_is_gone_is_made_anew(tmp_path: Path) -> None:
    unix = UnixAddress(tmp_path / "u")
    async with left(tmp_path, "worker-0.sock", unix=unix) as (processes, port):
        unix.path.unlink()
        async with released(await taken(tmp_path, port, unix=unix)) as takeover:
            assert pids(takeover.outdated) == [processes[0].pid]
            assert reaches(unix.path)


async def test_with_another_port_the_unix_socket_stays(tmp_path: Path) -> None:
    unix = UnixAddress(tmp_path / "u")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        other = probe.getsockname()[1]
    async with (
        left(tmp_path, "worker-0.sock", unix=unix) as (processes, _),
        released(await taken(tmp_path, other, unix=unix)) as takeover,
    ):
        assert pids(takeover.outdated) == [processes[0].pid]
        assert takeover.listener.getsockname()[1] == other
        assert reaches(unix.path)


async def test_what_stands_at_the_path_costs_the_workers_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    async with left(tmp_path, "worker-0.sock") as (processes, port):
        with pytest.raises(LaunchFailed, match="no socket"):
            await taken(tmp_path, port, unix=UnixAddress(tmp_path / "file"))
        async with released(await taken(tmp_path, port)) as takeover:
            assert pids(takeover.workers) == [processes[0].pid]


async def test_worker_that_says_nothing_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.worker.SILENT_TICKS", 0.1)
    async with left(tmp_path, "worker-0.sock") as (processes, port):
        os.kill(processes[0].pid, signal.SIGSTOP)
        async with released(await taken(tmp_path, port)) as takeover:
            assert takeover.workers == takeover.outdated == ()
            assert takeover.listener.getsockname()[1] == port
            assert processes[0].wait(10) == -signal.SIGKILL


@asynccontextmanager
async def run(folder: Path, takeover: Takeover, count: int) -> AsyncIterator[Workers]:
    workers = Workers(count, OPTIONS, takeover, folder, folder, FAKE_WORKER)
    async with AsyncExitStack() as undo:
        undo.callback(takeover.listener.close)
        undo.push_async_callback(workers.stop, 5)
        await workers.start()
        yield workers


async def test_missing_workers_are_started_and_fed_beside_those_that_were_found(
    tmp_path: Path,
) -> None:
    async with left(tmp_path, "worker-0.sock") as (processes, port):
        async with run(tmp_path, await taken(tmp_path, port, 2), 2) as workers:
            found = processes[0].pid
            workers.publish(TABLE)
            assert await workers.acknowledged(7)
            assert {link.pid for link in workers.links} > {found}
            assert workers.serving == 2
            os.kill(found, signal.SIGKILL)
            async with asyncio.timeout(20):
                await workers._until(lambda: workers.serving == 1)
                await workers._until(lambda: workers.serving == 2)
            assert workers.replaced["ended"] == 1
        assert sockets(tmp_path) == []


async def test_outdated_worker_ends_once_its_successor_has_the_table(tmp_path: Path) -> None:
    async with (
        left(tmp_path, "worker-0.sock", version="0.0.1") as (processes, port),
        run(tmp_path, await taken(tmp_path, port), 1) as workers,
    ):
        workers.publish(TABLE)
        await workers.replace_outdated(10)
        assert await asyncio.to_thread(processes[0].wait, 20) == 0
        assert workers.replaced["outdated"] == 1
        assert workers.serving == 1
        assert [link.applied for link in workers.links if link.pid != processes[0].pid] == [7]


async def test_what_dead_workers_had_counted_outlives_the_manager(tmp_path: Path) -> None:
    def calls(workers: Workers) -> int:
        return int(sum(workers.report()["responses"]["embed"].values()))

    async with left(tmp_path, "worker-0.sock", "worker-1.sock") as (processes, port):
        takeover = await taken(tmp_path, port)
        workers = Workers(2, OPTIONS, takeover, tmp_path, tmp_path, FAKE_WORKER)
        await workers.start()
        workers.publish(TABLE)
        await workers.acknowledged(7)
        await workers._until(lambda: bool(workers.report().get("responses")))
        counted = calls(workers)
        processes[1].kill()
        async with asyncio.timeout(20):
            await workers._until(lambda: len(workers.links) == 1)
        await workers.stop(0, leave=True)
        takeover.listener.close()
        async with run(tmp_path, await taken(tmp_path, port), 1) as again:
            assert calls(again) >= counted > 0
    assert not (tmp_path / "counted.json").exists()


async def test_failed_start_ends_what_it_started_and_lets_the_found_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.workers.READY_LIMIT", 0.5)
    async with left(tmp_path, "worker-0.sock") as (processes, port):
        _write(tmp_path / "counted.json", {"bytes_in": 1})
        takeover = await taken(tmp_path, port)
        broken = Workers(2, OPTIONS, takeover, tmp_path, tmp_path, ("/bin/sh", "-c", "exit 3"))
        with takeover.listener, pytest.raises(LaunchFailed, match="does not start"):
            await broken.start()
        await broken.stop(0)
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes[0].wait(0.1)
        assert alive(processes[0].pid)
        assert (tmp_path / "counted.json").exists(), "it is still added to what they count"
