"""What is asked of instances in the states that pass: starting, pausing, being ended, hanging."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from control_plane import alive, running, survivors

from tei_manager.manager.lifecycle import Backoff

pytestmark = pytest.mark.asyncio

PAUSING = Backoff(first=600, longest=600, jitter=0)
"""A pause after a crash that ends only when somebody asks for something."""


@pytest.mark.parametrize("vice", ["--never-healthy", "--slow-start=600"])
async def test_instance_that_is_starting_can_be_stopped_restarted_and_deleted(
    tmp_path: Path, vice: str
) -> None:
    async with running(tmp_path) as rig:
        first = await rig.create("a", vice, wait=0)
        assert first["status"] == "starting"
        assert (await rig.post("a", "start"))["code"] == "ALREADY_RUNNING"
        assert (await rig.post("a", "restart", wait=0))["status"] in ("stopping", "starting")
        again = await rig.until("a", "starting")
        assert (again["pid"], again["restarts"]) != (first["pid"], 0)
        assert (await rig.post("a", "stop"))["status"] == "stopped"
        assert survivors(first["pid"]) == []
        last = await rig.post("a", "start", wait=0)
        assert (await rig.api.delete("/instances/a")).status_code == 204
        assert survivors(last["pid"]) == []


@pytest.mark.parametrize("verb", ["stop", "restart", "delete"])
async def test_pause_after_a_crash_ends_with_whatever_is_asked(tmp_path: Path, verb: str) -> None:
    async with running(tmp_path, backoff=PAUSING) as rig:
        view = await rig.create("a")
        os.kill(view["pid"], signal.SIGKILL)
        supervisor = rig.manager.registry.get("a")
        async with asyncio.timeout(20):
            await supervisor._until(lambda: supervisor.phase.name == "BACKOFF")
        assert (await rig.post("a", "start"))["code"] == "ALREADY_RUNNING"
        if verb == "delete":
            assert (await rig.api.delete("/instances/a")).status_code == 204
            assert (await rig.api.get("/instances/a")).status_code == 404
        else:
            after = await rig.post("a", verb)
            assert after["status"] == {"stop": "stopped", "restart": "running"}[verb]
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "retry a"]


async def test_instance_that_stands_still_is_ended_as_any_other(tmp_path: Path) -> None:
    async with running(tmp_path, health={"interval_secs": 3600.0}) as rig:
        view = await rig.create("a", "--fork")
        os.kill(view["pid"], signal.SIGSTOP)
        assert (await rig.post("a", "stop"))["status"] == "stopped"
        assert survivors(view["pid"]) == []


async def test_instance_that_dies_while_it_is_being_stopped_is_stopped_and_not_restarted(
    tmp_path: Path,
) -> None:
    async with running(tmp_path, instances={"stop_timeout_secs": 60.0}) as rig:
        view = await rig.create("a", "--ignore-sigterm")
        assert (await rig.post("a", "stop", wait=0))["status"] == "stopping"
        os.kill(view["pid"], signal.SIGKILL)
        after = await rig.until("a", "stopped")
        assert (after["pid"], after["restarts"]) == (None, 0)


async def test_delete_outdoes_a_restart_that_is_under_way(tmp_path: Path) -> None:
    async with running(tmp_path, instances={"stop_timeout_secs": 1.0}) as rig:
        view = await rig.create("a", "--ignore-sigterm")
        assert (await rig.post("a", "restart", wait=0))["status"] == "stopping"
        assert (await rig.api.delete("/instances/a")).status_code == 204
        assert (await rig.api.get("/instances/a")).status_code == 404
        assert not alive(view["pid"])
        assert [table["routes"] for table in rig.tables()][-1] == []


async def test_two_floods_at_once_hold_up_neither(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await asyncio.gather(
            *(rig.create(name, "--flood=10") for name in ("a", "b")),
        )
        views = (await rig.api.get("/instances")).json()
        assert [view["status"] for view in views] == ["running", "running"]
