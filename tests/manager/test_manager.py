"""The whole control plane with the real multiplexer worker: what a gRPC client sees of it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from control_plane import Rig, alive, running
from prometheus_client import Metric

from tei_manager.errors import CertificateRefused
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.manager.workers import COMMAND

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def _multiplexed(folder: Path) -> AsyncIterator[tuple[Rig, mux_grpc.TeiMultiplexerAsyncStub]]:
    async with running(folder, worker=COMMAND) as rig:
        host, port = rig.manager.address
        options = [("grpc.enable_http_proxy", 0)]
        async with grpc.aio.insecure_channel(f"{host}:{port}", options) as channel:
            yield rig, mux_grpc.TeiMultiplexerStub(channel)


async def _embed(stub: mux_grpc.TeiMultiplexerAsyncStub, name: str) -> list[float]:
    request = mux_pb2.EmbedRequest(
        target=mux_pb2.Target(instance_name=name), request=tei_pb2.EmbedRequest(inputs="four")
    )
    answer: tei_pb2.EmbedResponse = await stub.Embed(request, timeout=10)
    return list(answer.embeddings)


async def _status(stub: mux_grpc.TeiMultiplexerAsyncStub, name: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _embed(stub, name)
    return caught.value.code(), caught.value.details() or ""


async def test_call_is_served_as_soon_as_the_instance_is_shown_as_running(tmp_path: Path) -> None:
    async with _multiplexed(tmp_path) as (rig, stub):
        for name in ("a", "b", "c"):
            assert (await rig.create(name))["status"] == "running"
            assert await _embed(stub, name) == [4.0, 1.0, 2.0, 3.0]


async def test_client_is_told_the_state_of_what_it_named(tmp_path: Path) -> None:
    async with _multiplexed(tmp_path) as (rig, stub):
        await rig.create("a")
        assert (await _embed(stub, "a"))[0] == 4.0
        await rig.post("a", "stop")
        assert await _status(stub, "a") == (
            grpc.StatusCode.UNAVAILABLE,
            "Instance 'a' is not running (status: stopped)",
        )
        await rig.post("a", "start")
        assert (await _embed(stub, "a"))[0] == 4.0
        await rig.api.delete("/instances/a")
        assert await _status(stub, "a") == (
            grpc.StatusCode.NOT_FOUND,
            "Instance 'a' not found",
        )


async def test_a_call_made_while_a_worker_is_replaced_waits_and_is_served(tmp_path: Path) -> None:
    async with running(tmp_path, worker=COMMAND) as rig:
        await rig.create("a")
        workers = rig.manager.workers
        dead = workers.links[0].pid
        os.kill(dead, signal.SIGKILL)
        async with asyncio.timeout(20):
            await workers._until(lambda: workers.serving == 0)
        host, port = rig.manager.address
        async with grpc.aio.insecure_channel(f"{host}:{port}") as channel:
            request = mux_pb2.InfoRequest(target=mux_pb2.Target(instance_name="a"))
            answer = await mux_grpc.TeiMultiplexerStub(channel).Info(request, timeout=20)
        assert answer.model_id == "org/model"
        assert workers.links[0].pid != dead


async def test_real_workers_figures_reach_the_metrics(tmp_path: Path) -> None:
    async with _multiplexed(tmp_path) as (rig, stub):
        await rig.create("a")
        await _embed(stub, "a")
        workers = rig.manager.workers
        await workers._until(lambda: bool(workers.report().get("requests")))
        text = (await rig.manager.metrics()).decode()
        assert 'tei_grpc_pool_requests_total{instance="a",method="embed"} 1.0' in text
        assert 'tei_grpc_pool_connections_total{instance="a"} 1.0' in text
        name = "tei_grpc_multiplexer_request_duration_seconds_count"
        assert f'{name}{{method="embed"}} 1.0' in text


async def test_files_for_tls_that_cannot_be_used_are_named_before_anything_starts(
    tmp_path: Path,
) -> None:
    (tmp_path / "c").write_text("garbage")
    files = {"tls_cert_file": tmp_path / "c", "tls_key_file": tmp_path / "c"}
    with pytest.raises(CertificateRefused, match="not whole, or not PEM"):
        async with running(tmp_path, worker=COMMAND, grpc=files):
            pass
    assert not (tmp_path / "s").exists()


async def test_stop_ends_the_real_worker_in_time(tmp_path: Path) -> None:
    async with _multiplexed(tmp_path) as (rig, _):
        pid = rig.manager.workers.links[0].pid
    assert not alive(pid)


async def test_a_worker_never_gets_a_table_without_instances_that_are_coming_back(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as rig:
        for name in ("a", "b", "c"):
            await rig.create(name)
        before = len(rig.tables())
    async with running(tmp_path) as rig:
        await rig.until("c", "running")
        tables = rig.tables()[before:]
        names = [{route["name"] for route in table["routes"]} for table in tables]
        assert names
        assert all({"a", "b", "c"} <= known for known in names)


async def test_every_line_about_an_instance_says_so_in_a_field(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as rig:
        await rig.create("a")
        await rig.create("bad", "--die-after=0")
        await rig.until("bad", "failed")
        await rig.post("a", "stop")
        await rig.api.delete("/instances/bad")
    lines = [it for it in caplog.records if it.getMessage().startswith("Instance '")]
    assert {vars(line).get("instance") for line in lines} == {"a", "bad"}


async def test_page_of_metrics_is_made_beside_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Families as well as text: their number grows with that of instances and methods."""
    made, family = set[int](), Metric.__init__

    def counted(self: Metric, *given: Any, **options: Any) -> None:
        made.add(threading.get_ident())
        family(self, *given, **options)

    monkeypatch.setattr(Metric, "__init__", counted)
    async with running(tmp_path) as rig:
        await rig.create("a")
        text = (await rig.manager.metrics()).decode()
    assert 'tei_manager_instance_status{instance="a",status="running"} 1.0' in text
    assert len(made) >= 1
    assert threading.get_ident() not in made
