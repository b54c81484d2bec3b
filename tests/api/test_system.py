"""``/health``, ``/metrics`` and the OpenAPI document of a real manager."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from functools import partial
from pathlib import Path

import pytest
from control_plane import Rig, running
from prometheus_client.parser import text_string_to_metric_families

from tei_manager.manager.scraper import Scraper

pytestmark = pytest.mark.asyncio


async def _samples(rig: Rig) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = (await rig.api.get("/metrics")).text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_health_counts_instances_and_workers(tmp_path: Path) -> None:
    async with running(tmp_path, grpc={"workers": 2}) as rig:
        await rig.create("a")
        await rig.create("b", autostart=False)
        answer = await rig.api.get("/health")
        assert answer.status_code == 200
        assert answer.json()["status"] == "healthy"
        assert answer.json()["instances"] == {"total": 2, "running": 1}
        assert answer.json()["workers"] == 2


async def test_health_is_503_while_no_worker_serves_and_mends_by_itself(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        workers = rig.manager.workers
        os.kill(workers.links[0].pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            await workers._until(lambda: workers.serving == 0)
        answer = await rig.api.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        async with asyncio.timeout(10):
            await workers._until(lambda: workers.serving == 1)
        assert (await rig.api.get("/health")).status_code == 200


async def test_required_series_are_there_and_those_of_a_deleted_instance_are_not(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        await rig.create("b")
        await rig.api.delete("/instances/b")
        samples = await _samples(rig)
        a, embed = ("instance", "a"), ("method", "embed")
        assert samples["tei_grpc_pool_connections_total", (a,)] >= 1
        assert samples["tei_grpc_pool_requests_total", (a, embed)] >= 1
        assert samples["tei_grpc_multiplexer_request_duration_seconds_count", (embed,)] >= 1
        assert samples["tei_manager_instances_created_total", (a, ("model", "org/model"))] == 1
        assert samples["tei_manager_instances_count", ()] == 1
        assert samples["tei_manager_workers", ()] == 1
        assert not [key for key in samples if ("instance", "b") in key[1]]


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances have time to say their metrics, however busy this machine is."""
    monkeypatch.setattr("tei_manager.manager.manager.Scraper", partial(Scraper, 60.0))


@pytest.mark.usefixtures("patient")
async def test_instances_own_series_are_on_the_page_while_they_run(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        await rig.create("b")
        key = "te_queue_size", (("instance", "b"), ("model", "org/model"))
        assert (await _samples(rig))[key] == 7
        await rig.post("b", "stop")
        assert key not in await _samples(rig)
        failures = "tei_manager_instance_scrape_failures_total"
        assert (await _samples(rig))[failures, (("instance", "b"),)] == 0


@pytest.mark.usefixtures("patient")
async def test_external_instance_has_series_where_its_metrics_port_is_known(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as rig:
        router = await rig.create("router")
        address = {"backend": "external", "address": router["address"]}
        await rig.create("silent", **address)
        await rig.create("known", prometheus_port=router["prometheus_port"], **address)
        samples = await _samples(rig)
        whose = {dict(labels)["instance"] for name, labels in samples if name == "te_queue_size"}
        assert whose == {"router", "known"}


async def test_metrics_port_that_is_the_managers_own_is_refused(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        answer = await rig.create(
            "a", backend="external", address="127.0.0.1:8081", prometheus_port=9000
        )
        assert answer["code"] == "PORT_CONFLICT"
        assert "prometheus_port: port 9000 is the manager's own" in answer["error"]


async def test_no_counter_falls_when_a_worker_dies(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        workers = rig.manager.workers
        before = await _samples(rig)
        os.kill(workers.links[0].pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            await workers._until(lambda: workers.serving == 0)
            dead = await _samples(rig)
            await workers._until(lambda: workers.serving == 1 and bool(workers.links[0].report))
        after = await _samples(rig)
        for key in before:
            if key[0].endswith(("_total", "_count", "_bucket", "_sum")):
                assert before[key] <= dead[key] <= after[key]
        assert dead.get(("tei_grpc_pool_connections_open", (("instance", "a"),)), 0) == 0


async def test_documentation_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        page = (await rig.api.get("/docs")).text
        links = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
        assert len(links) >= 3
        for link in links:
            assert link.startswith("/static-offline-docs/"), link
            assert (await rig.api.get(link)).status_code == 200
        assert "://" not in page


async def test_openapi_document_says_every_path_and_the_error_shape(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        document = (await rig.api.get("/openapi.json")).json()
        assert set(document["paths"]) == {
            "/health",
            "/metrics",
            "/models",
            "/models/{model_id}",
            "/models/{model_id}/download",
            "/models/{model_id}/load",
            "/models/{model_id}/events",
            "/instances",
            "/instances/{name}",
            "/instances/{name}/start",
            "/instances/{name}/stop",
            "/instances/{name}/restart",
            "/instances/{name}/logs",
            "/instances/{name}/events",
        }
        errors = document["paths"]["/instances/{name}"]["get"]["responses"]["404"]
        assert errors["content"]["application/json"]["schema"]["$ref"].endswith("ProblemView")
