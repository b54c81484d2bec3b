"""A reload by difference, in a running manager with stub routers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from control_plane import Rig, alive, running

from tei_manager.settings import Settings

pytestmark = pytest.mark.asyncio


def _table(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "model_id": "org/model", **fields}


def _changed(rig: Rig, *tables: dict[str, Any], **sections: dict[str, Any]) -> Settings:
    document = rig.manager.settings.model_dump() | {"instance": tables}
    for name, values in sections.items():
        document[name] |= values
    return Settings.model_validate(document)


async def _pids(rig: Rig) -> dict[str, int]:
    rows = (await rig.api.get("/instances")).json()
    return {row["name"]: (await rig.until(row["name"], "running"))["pid"] for row in rows}


async def test_only_what_differs_is_created_replaced_or_removed(tmp_path: Path) -> None:
    tables = [_table("same"), _table("other"), _table("old")]
    async with running(tmp_path, instance=tables) as rig:
        await rig.create("mine")
        before = await _pids(rig)
        wanted = [_table("new"), _table("other", pooling="cls"), _table("same")]
        await rig.manager.reload(_changed(rig, *wanted))
        after = await _pids(rig)
        assert set(after) == {"same", "other", "new", "mine"}
        assert (after["same"], after["mine"]) == (before["same"], before["mine"])
        assert after["other"] != before["other"]
        assert not alive(before["old"])
        assert not alive(before["other"])
        assert (await rig.show("other"))["pooling"] == "cls"
        assert (await rig.show("new"))["origin"] == "file"


async def test_route_of_an_unchanged_instance_is_the_same_in_every_table(tmp_path: Path) -> None:
    async with running(tmp_path, instance=[_table("same"), _table("old")]) as rig:
        await _pids(rig)
        before = len(rig.tables())
        await rig.manager.reload(_changed(rig, _table("same"), _table("new")))
        await _pids(rig)
        routes = [
            route
            for table in rig.tables()[before - 1 :]
            for route in table["routes"]
            if route["name"] == "same"
        ]
        assert len(routes) > 1
        assert all(route == routes[0] for route in routes)


async def test_api_instance_of_a_name_that_the_file_takes_is_replaced(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        await rig.manager.reload(_changed(rig, _table("a", pooling="mean")))
        view = await rig.until("a", "running")
        assert (view["origin"], view["pooling"]) == ("file", "mean")
        assert (await rig.api.delete("/instances/a")).status_code == 409


async def test_instance_that_cannot_be_made_keeps_no_other_from_being_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as rig:
        own = rig.manager.address[1]
        await rig.manager.reload(_changed(rig, _table("bad", port=own), _table("good")))
        assert list(await _pids(rig)) == ["good"]
        assert f"Instance 'bad' of the settings file: Port {own} is in use" in caplog.text


async def test_limit_of_the_new_settings_holds_and_bound_ones_are_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path) as rig:
        changed = _changed(rig, instances={"max": 1}, grpc={"workers": 2})
        await rig.manager.reload(changed)
        assert "Until the next start these keep their values: grpc.workers" in caplog.text
        await rig.create("a")
        assert (await rig.create("b"))["code"] == "MAX_INSTANCES_REACHED"


async def test_nothing_happens_if_nothing_differs(tmp_path: Path) -> None:
    async with running(tmp_path, instance=[_table("a")]) as rig:
        before = await _pids(rig)
        await rig.manager.reload(rig.manager.settings)
        assert await _pids(rig) == before
        events = (await rig.api.get("/instances/a/events")).json()
        assert [event["event"] for event in events] == ["start requested", "ready"]
