"""Models through the API of a real manager, with a hub on loopback and the stub router."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from control_plane import Rig, running
from fake_hub import FILES, MODEL, FakeHub, fake_hub

pytestmark = pytest.mark.asyncio

WEIGHTS = FILES["model.safetensors"]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with fake_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


async def _post(rig: Rig, verb: str, wait: float = 60, model_id: str = MODEL) -> Any:
    path = f"/models/{model_id}/{verb}"
    return (await rig.api.post(path, params={"wait": wait})).json()


async def _until_octets_came(rig: Rig) -> None:
    async with asyncio.timeout(60):
        while True:
            row = (await rig.api.get(f"/models/{MODEL}", params={"wait": 0.1})).json()
            if row["progress"] and row["progress"]["bytes"] > 1 << 20:
                return


async def test_download_brings_what_a_server_needs_and_says_what_it_is(
    tmp_path: Path, hub: FakeHub
) -> None:
    async with running(tmp_path) as rig:
        row = await _post(rig, "download")
        assert (row["status"], row["downloaded"], row["missing"]) == ("downloaded", True, [])
        assert (row["kind"], row["model_type"], row["pooling"]) == ("embedding", "bert", "mean")
        wanted = {name: data for name, data in FILES.items() if name != "flax_model.msgpack"}
        assert {name for name, _ in hub.gets} == wanted.keys()
        for name, data in wanted.items():
            assert (Path(row["cache_path"]) / name).read_bytes() == data
        octets = sum(map(len, wanted.values()))
        assert row["progress"] == {
            "files": 4, "files_total": 4, "bytes": octets, "bytes_total": octets,
        }  # fmt: skip
        events = (await rig.api.get(f"/models/{MODEL}/events")).json()
        assert [each["event"] for each in events] == ["download started", "download finished"]
        encoded = await rig.api.get(f"/models/{MODEL.replace('/', '%2F')}")
        assert encoded.json()["model_id"] == MODEL


async def test_download_goes_on_in_the_next_manager_where_it_was_interrupted(
    tmp_path: Path, hub: FakeHub
) -> None:
    hub.gate.clear()
    async with running(tmp_path) as rig:
        row = await _post(rig, "download", wait=0)
        assert row["status"] == "downloading"
        await _until_octets_came(rig)
        assert (await _post(rig, "download"))["code"] == "MODEL_BUSY"
        assert (await rig.api.delete(f"/models/{MODEL}")).json()["code"] == "MODEL_BUSY"
        assert (await rig.api.get("/health")).status_code == 200, "the loop is free"
    hub.gate.set()
    async with running(tmp_path) as rig:
        row = (await rig.api.get(f"/models/{MODEL}")).json()
        assert (row["status"], row["missing"]) == ("partial", ["model.safetensors"])
        kept = next((tmp_path / "hub").glob("**/*.partial")).stat().st_size
        assert 0 < kept < len(WEIGHTS)
        assert (await _post(rig, "download"))["status"] == "downloaded"
        assert hub.gets[-1] == ("model.safetensors", f"bytes={kept}-")
        blob = next((tmp_path / "hub").glob("**/snapshots/*/model.safetensors"))
        assert blob.read_bytes() == WEIGHTS


async def test_hub_that_is_not_there_fails_the_download_in_one_sentence(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        async with running(tmp_path) as rig:
            row = await _post(rig, "download")
    assert row["status"] == "failed"
    assert "check the network and HF_ENDPOINT, or name a local directory" in row["error"]
    assert "\n" not in row["error"]


async def test_model_that_the_hub_does_not_have_is_named(tmp_path: Path, hub: FakeHub) -> None:
    async with running(tmp_path) as rig:
        row = await _post(rig, "download", model_id="org/none")
    assert row["error"].startswith("The hub has no model 'org/none'")


async def test_download_that_would_fill_the_disk_is_refused(tmp_path: Path, hub: FakeHub) -> None:
    async with running(tmp_path, models={"min_free_mb": 2**31}) as rig:
        row = await _post(rig, "download")
    assert (row["status"], "lower [models] min_free_mb" in row["error"]) == ("failed", True)
    assert hub.gets == []


async def test_trial_tells_a_model_that_starts_from_one_that_does_not(
    tmp_path: Path, hub: FakeHub
) -> None:
    async with running(tmp_path) as rig:
        assert (await _post(rig, "load"))["code"] == "MODEL_NOT_FOUND"
        await rig.api.post("/models", json={"model_id": MODEL})
        assert (await _post(rig, "load"))["code"] == "MODEL_LOAD_FAILED"
        await _post(rig, "download")
        row = await _post(rig, "load")
        assert (row["status"], row["error"]) == ("verified", "")
        (tmp_path / "router").write_text("#!/bin/sh\necho no such architecture\nexit 3\n")
        row = await _post(rig, "load")
        assert row["status"] == "failed"
        assert row["error"] == "The server exited with code 3: no such architecture"


async def test_delete_waits_for_the_instances_and_leaves_nothing(
    tmp_path: Path, hub: FakeHub
) -> None:
    async with running(tmp_path) as rig:
        await _post(rig, "download")
        await rig.create("user", model_id=MODEL)
        refused = await rig.api.delete(f"/models/{MODEL}")
        assert (refused.status_code, refused.json()["code"]) == (409, "MODEL_BUSY")
        assert "used by user" in refused.json()["error"]
        await rig.api.delete("/instances/user")
        assert (await rig.api.delete(f"/models/{MODEL}")).status_code == 204
        assert (await rig.api.get("/models")).json() == []
        assert list((tmp_path / "hub").glob("models--*")) == []


async def test_local_folder_works_without_a_hub_and_outlives_its_delete(
    tmp_path: Path, hub: FakeHub
) -> None:
    folder = tmp_path / "own" / "mine"
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_bytes(FILES[name])
    body = {"model_id": str(folder)}
    async with running(tmp_path, instances={"model_dirs": [folder.parent]}) as rig:
        assert (await rig.api.post("/models", json=body)).status_code == 201
        assert (await rig.api.post("/models", json=body)).status_code == 200
        assert (await _post(rig, "load", model_id=str(folder)))["status"] == "verified"
        assert (await rig.api.delete(f"/models/{folder}")).status_code == 204
    assert (folder / "config.json").exists()
    async with running(tmp_path) as rig:
        refused = await rig.api.post("/models", json=body)
        assert (refused.status_code, refused.json()["code"]) == (422, "VALIDATION_ERROR")


async def test_registered_model_is_listed_by_the_next_manager(tmp_path: Path, hub: FakeHub) -> None:
    async with running(tmp_path) as rig:
        await rig.api.post("/models", json={"model_id": "b/later"})
    async with running(tmp_path) as rig:
        rows = (await rig.api.get("/models")).json()
        assert [(row["model_id"], row["status"]) for row in rows] == [("b/later", "available")]


@pytest.mark.parametrize("model_id", ["../etc", "-flag", "a/b/c", "/etc", "org/download"])
async def test_what_is_no_id_is_refused(tmp_path: Path, hub: FakeHub, model_id: str) -> None:
    async with running(tmp_path) as rig:
        path = f"/models/{model_id.replace('/', '%2F')}"
        assert (await rig.api.get(path)).status_code in (405, 422)
        assert not hub.gets
