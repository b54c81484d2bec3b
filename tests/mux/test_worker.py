"""The process: the manager's line protocol, draining, being left alone, and what it counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import grpc
import grpc.aio
import pytest
from fake_tei import fake_tei
from http2_peer import connect
from multiplexer import (
    CHANNEL_OPTIONS,
    embed,
    framed,
    multiplexer,
    multiplexer_process,
    path,
    table,
    until,
)

from tei_manager import __version__, control
from tei_manager.mux import managers
from tei_manager.mux import worker as worker_module
from tei_manager.routes import Route, RouteState
from tei_manager.telemetry.counters import BUCKETS

pytestmark = pytest.mark.asyncio

UNREAD_TABLES = 3000
"""Answers to so many, one packet each, are several times what a Unix socket holds."""


class Manager:
    """The manager's end of a worker's control socket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    def say(self, line: str) -> None:
        self._writer.write(line.encode() + b"\n")

    async def hear(self, kind: str) -> dict[str, Any]:
        """Wait for the next document of a kind."""
        async with asyncio.timeout(5):
            while line := await self._reader.readline():
                document: dict[str, Any] = json.loads(line)
                if document["type"] == kind:
                    return document
        raise ConnectionError("the worker closed its control socket")

    async def rest(self, kind: str) -> AsyncIterator[dict[str, Any]]:
        """All documents of a kind until the worker closes the connection."""
        with contextlib.suppress(ConnectionError):
            while True:
                yield await self.hear(kind)

    def say_table(self, *routes: Route | tuple[str, int], version: int) -> None:
        self.say(table(*routes, version=version).to_json()[:-1] + ',"type":"table"}')

    async def apply(self, *routes: Route | tuple[str, int], version: int) -> None:
        """Send a table and wait until it is applied."""
        self.say_table(*routes, version=version)
        assert (await self.hear("applied"))["version"] == version

    def stop_reading(self) -> None:
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]  # it reads and writes

    async def all_said(self) -> None:
        """Wait until the worker has read all but what the socket holds."""
        await until(lambda: self._writer.transport.get_write_buffer_size() == 0, 20)

    def leave(self) -> None:
        self._writer.close()


@asynccontextmanager
async def worker_process(
    folder: Path, errors: int | IO[bytes] = subprocess.DEVNULL
) -> AsyncIterator[tuple[subprocess.Popen[bytes], int]]:
    """A worker as a manager starts it; yields the process and the port of its clients.

    Not uvloop's own way to start a process: with ``pass_fds`` it runs Python between fork and exec,
    which the threads of a gRPC server in this process do not survive.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        fd = listening.fileno()
        control = ("--control", str(folder / "w"), "--config", "{}")
        process = subprocess.Popen(  # noqa: ASYNC220  # it does not wait
            (sys.executable, "-m", "tei_manager.mux.worker", "--listen-fd", str(fd), *control),
            pass_fds=(fd,),
            env={**os.environ, "PYTHONPATH": str(Path(worker_module.__file__).parents[2])},
            stderr=errors,
        )
        port = listening.getsockname()[1]
        try:
            yield process, port
        finally:
            process.kill()
            await asyncio.to_thread(process.wait)


@asynccontextmanager
async def manager_of(folder: Path) -> AsyncIterator[Manager]:
    """Connect to a worker as soon as it has its control socket."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                reader, writer = await asyncio.open_unix_connection(str(folder / "w"))
                break
            await asyncio.sleep(0)
    try:
        yield Manager(reader, writer)
    finally:
        writer.close()


def channel(port: int) -> Any:
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=CHANNEL_OPTIONS)


async def test_a_worker_says_who_it_is_applies_tables_and_reports(tmp_path: Path) -> None:
    async with (
        fake_tei() as tei,
        worker_process(tmp_path) as (process, port),
        manager_of(tmp_path) as manager,
        channel(port) as client,
    ):
        hello = await manager.hear("hello")
        assert hello == {
            "type": "hello",
            "pid": process.pid,
            "version": __version__,
            "options": {},
            "protocol": control.PROTOCOL,
        }
        ask = client.unary_unary(path("Embed"))
        early = asyncio.ensure_future(ask(embed(), wait_for_ready=True, timeout=10))
        await manager.hear("counters")
        assert not early.done()  # nobody is told "not found" before there is a table

        await manager.apply(("a", tei.port), version=7)
        assert await early
        await manager.apply(Route("a", state=RouteState.STOPPED), version=8)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await ask(embed())
        assert failure.value.details() == "Instance 'a' is not running (status: stopped)"

        counters: dict[str, Any] = {}
        async with asyncio.timeout(5):
            while sum(counters.get("responses", {}).get("embed", {}).values()) < 2:
                counters = (await manager.hear("counters"))["counters"]
        assert counters["responses"]["embed"] == {"0": 1, "14": 1}
        assert counters["requests"] == {"a": {"embed": 1}}


async def test_a_manager_that_comes_back_finds_the_worker_serving(tmp_path: Path) -> None:
    async with fake_tei() as tei, worker_process(tmp_path) as (_, port), channel(port) as client:
        async with manager_of(tmp_path) as manager:
            await manager.apply(("a", tei.port), version=1)
        assert await client.unary_unary(path("Embed"))(embed(), wait_for_ready=True)
        async with manager_of(tmp_path) as manager:
            await manager.hear("hello")
            await manager.apply(version=2)
            with pytest.raises(grpc.aio.AioRpcError):
                await client.unary_unary(path("Embed"))(embed())


@pytest.mark.parametrize("line", ["garbage", "{}", '{"type":"unknown"}', '{"type":"table"}', "[1]"])
async def test_words_that_a_worker_does_not_know_cost_no_calls(tmp_path: Path, line: str) -> None:
    async with fake_tei() as tei, worker_process(tmp_path) as (_, port), channel(port) as client:
        async with manager_of(tmp_path) as manager:
            await manager.apply(("a", tei.port), version=1)
            manager.say(line)
            assert await client.unary_unary(path("Embed"))(embed(), wait_for_ready=True)
        async with manager_of(tmp_path) as manager:
            await manager.apply(("a", tei.port), version=2)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
async def test_draining_loses_no_call_under_way(tmp_path: Path, how: str) -> None:
    async with (
        fake_tei() as tei,
        worker_process(tmp_path) as (process, port),
        manager_of(tmp_path) as manager,
        channel(port) as client,
    ):
        await manager.apply(("a", tei.port), version=1)
        unary = client.unary_unary(path("Embed"))
        calls = [
            asyncio.ensure_future(unary(embed("sleep 0.5"), wait_for_ready=True))
            for _ in range(100)
        ]
        stream = client.stream_stream(path("EmbedStream"))(timeout=10)
        await stream.write(embed())
        assert await stream.read()
        for _ in range(101):
            await tei.call()
        process.send_signal(getattr(signal, how))
        await manager.hear("draining")
        assert all(await asyncio.gather(*calls))
        await stream.write(embed())
        assert await stream.read()
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK
        reports = [report["counters"] async for report in manager.rest("counters")]
        assert reports[-1]["responses"] == {"embed": {"0": 100}, "embed_stream": {"0": 1}}
        assert await asyncio.to_thread(process.wait, 5) == 0


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does-not-read"])
async def test_a_worker_that_ends_beside_its_manager_has_nothing_to_complain_of(
    tmp_path: Path, reads: bool
) -> None:
    with (tmp_path / "errors").open("wb") as errors:
        async with (
            worker_process(tmp_path, errors) as (process, _),
            manager_of(tmp_path) as manager,
        ):
            await manager.apply(version=1)
            if not reads:  # more answers than sockets hold, so that the last report cannot go out
                manager.stop_reading()
                for version in range(2, UNREAD_TABLES):
                    manager.say_table(version=version)
                await manager.all_said()
            process.terminate()
            if reads:
                await manager.hear("draining")
            assert await asyncio.to_thread(process.wait, 10) == 0
    assert (tmp_path / "errors").read_text() == ""


async def test_a_second_signal_does_not_wait_for_calls() -> None:
    async with (
        fake_tei() as tei,
        multiplexer_process(("a", tei.port)) as mux,
        channel(mux.port) as client,
    ):
        call = client.unary_unary(path("Embed"))(embed("hang"))
        await tei.call()
        mux.terminate()
        while True:  # until the first signal has been acted upon
            with contextlib.suppress(OSError):
                (await asyncio.open_connection("127.0.0.1", mux.port))[1].close()
                continue
            break
        mux.terminate()
        async with asyncio.timeout(5):
            assert await mux.process.wait() == 0
        assert await call.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_draining_worker_says_goodbye_twice_and_then_closes() -> None:
    """Read by hand: the library takes the first GOAWAY for the end of the connection."""

    async def frame(reader: asyncio.StreamReader) -> tuple[int, bytes]:
        head = await reader.readexactly(9)
        return head[3], await reader.readexactly(int.from_bytes(head[:3], "big"))

    async def until_frame(reader: asyncio.StreamReader, kind: int) -> bytes:
        async with asyncio.timeout(5):
            while True:
                got, payload = await frame(reader)
                if got == kind:
                    return payload

    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux, connect(mux.port) as client:
        call = client.request(path("Embed"), data=framed(embed("sleep 0.3")), end=True)
        await client.flush()
        await tei.call()
        mux.worker.drain()
        assert await until_frame(client.reader, 7) == b"\x7f\xff\xff\xff\0\0\0\0"
        ping = await until_frame(client.reader, 6)
        client.writer.write(b"\0\0\x08\x06\x01\0\0\0\0" + ping)
        assert await until_frame(client.reader, 7) == call.to_bytes(4, "big") + bytes(4)
        rest = await asyncio.wait_for(client.reader.read(-1), 5)
        assert b"grpc-status" in rest  # the call under way was answered, then all was closed


async def test_calls_of_a_route_that_is_withdrawn_are_told_until_the_last_is_gone(
    tmp_path: Path,
) -> None:
    async with (
        fake_tei() as tei,
        worker_process(tmp_path) as (_, port),
        manager_of(tmp_path) as manager,
        channel(port) as client,
    ):
        running = Route("a", port=tei.port, key="1.77")
        await manager.apply(running, version=7)
        ask = client.unary_unary(path("Embed"))
        calls = [asyncio.ensure_future(ask(embed("hold"), timeout=20)) for _ in range(2)]
        for _ in calls:
            await tei.call()
        manager.say_table(replace(running, state=RouteState.STOPPING), version=8)
        assert (await manager.hear("under_way"))["calls"] == {"1.77": 2}
        tei.release.set()
        assert (await manager.hear("under_way"))["calls"] == {}
        assert await asyncio.gather(*calls)


async def test_calls_of_a_process_that_is_to_be_ended_fail_and_are_cancelled_there(
    tmp_path: Path,
) -> None:
    async with (
        fake_tei() as tei,
        worker_process(tmp_path) as (_, port),
        manager_of(tmp_path) as manager,
        channel(port) as client,
    ):
        running = Route("a", port=tei.port, key="1.77")
        await manager.apply(running, version=7)
        call = asyncio.ensure_future(client.unary_unary(path("Embed"))(embed("hold"), timeout=20))
        there = await tei.call()
        stopping = replace(running, state=RouteState.STOPPING)
        await manager.apply(stopping, version=8)
        assert not call.done()
        await manager.apply(replace(stopping, key=""), version=9)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await call
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failure.value.details() == "instance 'a' was stopped before it had answered"
        assert (await there.ended()).cancelled
        assert (await manager.hear("under_way"))["calls"] == {}


async def test_a_worker_without_a_manager_drains_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with multiplexer() as mux:
        with socket.create_server(("127.0.0.1", 0)) as listening:
            await mux.worker.listen_for_managers(tmp_path / "w", [listening], {})
            async with manager_of(tmp_path) as manager:
                await manager.hear("hello")
                assert mux.worker.managers.orphan_timer is not None
                assert mux.worker.managers.orphan_timer.cancelled()
                monkeypatch.setattr(managers, "ORPHAN_SECONDS", 0.2)
        async with asyncio.timeout(5):
            await mux.worker._draining.wait()
        assert not (tmp_path / "w").exists()


async def test_every_counter_is_right_after_a_known_series_of_calls() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        client = mux.channel()
        unary = client.unary_unary(path("Embed"))
        for _ in range(5):
            await unary(embed())
        for text in ("fail 8 busy", "fail 8 busy", "fail 3 bad"):
            with pytest.raises(grpc.aio.AioRpcError):
                await unary(embed(text))
        with pytest.raises(grpc.aio.AioRpcError):
            await unary(embed(name="nobody"))
        stream = client.stream_stream(path("EmbedStream"))(embed() for _ in range(10))
        assert len([reply async for reply in stream]) == 10
        hanging = client.unary_unary(path("Predict"))(embed("hang"))
        while (await tei.call()).method != "/tei.v1.Predict/Predict":
            pass
        assert mux.switch.counters.in_flight == 1
        hanging.cancel()
        await mux.settled()

        report = mux.switch.counters.to_json()
        assert report["responses"] == {
            "embed": {"0": 5, "8": 2, "3": 1, "5": 1},
            "embed_stream": {"0": 1},
            "predict": {"1": 1},
        }
        assert report["requests"] == {"a": {"embed": 8, "embed_stream": 1, "predict": 1}}
        assert {name: sum(counts) for name, counts in report["durations"].items()} == {
            "embed": 9,
            "embed_stream": 1,
            "predict": 1,
        }
        assert all(len(counts) == len(BUCKETS) + 1 for counts in report["durations"].values())
        assert report["connections"] == report["connections_open"] == {"a": 1}
        assert (report["in_flight"], report["queued"], report["client_connections"]) == (0, 0, 1)
        await until(lambda: mux.switch.counters.bytes_in > 0 < mux.switch.counters.bytes_out)


async def test_the_series_of_an_instance_that_is_gone_disappear() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        await mux.channel().unary_unary(path("Embed"))(embed())
        mux.worker.apply(table(version=2))
        await until(lambda: len(mux.switch.endpoints) == 1)
        report = mux.switch.counters.to_json()
        assert report["requests"] == report["connections"] == report["connections_open"] == {}
