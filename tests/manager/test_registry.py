"""All instances together: the settings file's, ports, route tables, a store that fails."""

from __future__ import annotations

import itertools
import socket
import sqlite3
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from control_plane import Rig, running

from tei_manager.errors import StateFailed

pytestmark = pytest.mark.asyncio


def _table(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "model_id": "org/model", **fields}


async def _ordinals(rig: Rig) -> dict[str, int]:
    return {status.name: status.record.ordinal for status in rig.manager.registry.statuses()}


async def test_instances_of_the_file_are_started_and_only_it_can_delete_them(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, instance=[_table("a")]) as rig:
        assert (await rig.until("a", "running"))["origin"] == "file"
        refused = await rig.api.delete("/instances/a")
        assert (refused.status_code, refused.json()["code"]) == (409, "INVALID_INSTANCE_STATE")
        assert "settings file" in refused.json()["error"]


async def test_file_keeps_replaces_removes_and_takes_over_at_the_next_start(
    tmp_path: Path,
) -> None:
    off = {"autostart": False}
    first = [_table("same", **off), _table("changed", **off), _table("gone", **off)]
    async with running(tmp_path, instance=first) as rig:
        await rig.create("mine", autostart=False)
        await rig.create("taken", autostart=False)
        before = await _ordinals(rig)
    second = [
        _table("same", **off),
        _table("changed", pooling="mean", **off),
        _table("taken", **off),
    ]
    async with running(tmp_path, instance=second) as rig:
        after = await _ordinals(rig)
        assert set(after) == {"same", "changed", "mine", "taken"}
        assert after["same"] == before["same"]
        assert after["changed"] > before["changed"]
        assert (await rig.show("changed"))["pooling"] == "mean"
        assert (await rig.show("mine"))["origin"] == "api"
        assert (await rig.show("taken"))["origin"] == "file"


async def test_users_stop_of_an_instance_of_the_file_stays_a_stop(tmp_path: Path) -> None:
    async with running(tmp_path, instance=[_table("a")]) as rig:
        await rig.until("a", "running")
        await rig.post("a", "stop")
    async with running(tmp_path, instance=[_table("a")]) as rig:
        assert (await rig.show("a"))["status"] == "stopped"


async def test_one_impossible_instance_of_the_file_does_not_hold_up_the_others(
    tmp_path: Path,
) -> None:
    impossible = _table("bad", api_key_file=str(tmp_path / "none"))
    async with running(tmp_path, instance=[impossible, _table("good")]) as rig:
        assert list(await _ordinals(rig)) == ["good"]


async def test_without_restore_saved_instances_are_there_and_stopped(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
    async with running(tmp_path, state={"restore": False}) as rig:
        assert (await rig.show("a"))["status"] == "stopped"


async def test_routes_carry_the_credential_and_a_key_for_each_process(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    async with running(tmp_path, instances={"api_key_dirs": [tmp_path]}) as rig:
        view = await rig.create("a", api_key_file=str(tmp_path / "key"))
        first = rig.tables()[-1]["routes"][0]
        assert first["api_key"] == "secret"
        assert "secret" not in str(view)
        assert "key" not in view
        await rig.post("a", "restart")
        assert rig.tables()[-1]["routes"][0]["key"] != first["key"]


async def test_versions_of_route_tables_only_grow(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        await rig.post("a", "restart")
        await rig.api.delete("/instances/a")
        versions = [table["version"] for table in rig.tables()]
        assert versions == sorted(set(versions))
        assert rig.tables()[-1]["routes"] == []


async def test_workers_get_no_table_that_they_have(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        await rig.post("a", "stop")
        await rig.post("a", "start")
        await rig.api.delete("/instances/a")
        contents = [{**table, "version": 0, "at": 0} for table in rig.tables()]
        assert all(one != next_one for one, next_one in itertools.pairwise(contents))


async def test_store_that_fails_makes_the_request_fail_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a")
        store = rig.manager.registry.store

        async def full(*_: Any) -> None:
            raise StateFailed("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(store, "update", full)
            patch.setattr(store, "insert", full)
            assert (await rig.create("b"))["code"] == "IO_ERROR"
            assert (await rig.post("a", "stop"))["error"] == "disk full"
            assert (await rig.show("a"))["pid"] == view["pid"]
        with monkeypatch.context() as patch:
            patch.setattr(store, "delete", full)
            assert (await rig.api.delete("/instances/a")).json()["code"] == "IO_ERROR"
            assert (await rig.show("a"))["status"] == "stopped"
        assert (await rig.api.delete("/instances/a")).status_code == 204


async def test_state_file_holds_no_credential(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("very-secret\n")
    async with running(tmp_path, instances={"api_key_dirs": [tmp_path]}) as rig:
        view = await rig.create("a", api_key_file=str(tmp_path / "key"))
        assert view["status"] == "running"
    dump = "\n".join(sqlite3.connect(tmp_path / "s" / "state.db").iterdump())
    assert "very-secret" not in dump


async def test_ports_of_instances_never_meet(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for name in ("a", "b", "c"):
            await rig.create(name, autostart=False)
        views = (await rig.api.get("/instances")).json()
        ports = [view[key] for view in views for key in ("port", "prometheus_port")]
        assert len(set(ports)) == 6
        same = {"port": 23456, "prometheus_port": 23456}
        assert (await rig.create("d", **same))["code"] == "PORT_CONFLICT"


async def test_ports_that_are_given_out_at_the_same_moment_never_meet(tmp_path: Path) -> None:
    async with running(tmp_path) as rig, AsyncExitStack() as held:
        registry = rig.manager.registry
        records = []
        for name in ("a", "b"):
            await rig.create(name, autostart=False)
            records.append(registry.get(name).record)
        for record in records:
            for port in (record.port, record.prometheus_port):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        moved = [registry.with_free_ports(record) for record in records]
        ports = [port for record in moved for port in (record.port, record.prometheus_port)]
        assert len(set(ports)) == 4
