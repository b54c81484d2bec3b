"""Instances driven through the API of a real manager, with stub routers that have vices."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
from control_plane import Rig, alive, group_members, running, stub_binary, survivors

from tei_manager.manager.launcher import Program
from tei_manager.manager.lifecycle import Backoff
from tei_manager.manager.logfile import MAX_BYTES

pytestmark = pytest.mark.asyncio


async def test_create_wait_shows_running_with_everything_that_was_asked_for(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("bge", pooling="mean", max_batch_tokens=99)
        assert view["status"] == "running"
        assert view["backend"] == "tei"
        assert view["pooling"] == "mean"
        assert view["max_batch_tokens"] == 99
        assert view["address"] == f"127.0.0.1:{view['port']}"
        assert view["pid"] > 0
        assert view["uptime_secs"] >= 0
        assert [row["name"] for row in (await rig.api.get("/instances")).json()] == ["bge"]


async def test_create_without_wait_answers_at_once_with_starting(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        answer = await rig.api.post("/instances", json={"name": "a", "model_id": "m"})
        assert answer.status_code == 201
        assert answer.json()["status"] == "starting"
        shown = (await rig.api.get("/instances/a", params={"wait": 30})).json()
        assert (shown["status"], shown["status_reason"]) == ("running", "")


async def test_workers_know_the_route_before_the_instance_is_shown_as_running(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as rig:
        run = tmp_path / "s" / "run"
        run.joinpath("mute").touch()
        await rig.create("a", wait=0)
        supervisor = rig.manager.registry.get("a")
        async with asyncio.timeout(20):
            await supervisor._until(lambda: supervisor.route().state == "running")
        assert (await rig.show("a"))["status"] == "starting"
        assert rig.tables()[-1]["routes"][0]["state"] in ("starting", "running")
        assert (await rig.until("a", "running"))["status"] == "running", (
            "after a limit all the same"
        )


async def test_route_is_withdrawn_before_the_process_gets_its_signal(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a")
        run = tmp_path / "s" / "run"
        run.joinpath("mute").touch()
        stopping = await rig.post("a", "stop", wait=0)
        assert stopping["status"] == "stopping"
        assert alive(view["pid"]), "nobody has acknowledged yet"
        async with asyncio.timeout(20):
            await rig.until("a", "stopped")
        assert not alive(view["pid"])
        states = [table["routes"][0]["state"] for table in rig.tables() if table["routes"]]
        assert states.index("stopping") > states.index("running")


async def test_stop_start_and_restart_say_409_where_they_have_no_meaning(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        assert (await rig.post("a", "start"))["code"] == "ALREADY_RUNNING"
        assert (await rig.post("a", "stop"))["status"] == "stopped"
        assert (await rig.post("a", "stop"))["code"] == "NOT_RUNNING"
        started = await rig.post("a", "start")
        assert (started["status"], started["restarts"]) == ("running", 0)
        restarted = await rig.post("a", "restart")
        assert (restarted["status"], restarted["restarts"]) == ("running", 1)
        assert restarted["pid"] != started["pid"]


async def test_stop_is_stopping_first_and_cannot_be_restarted_meanwhile(tmp_path: Path) -> None:
    async with running(tmp_path, instances={"stop_timeout_secs": 1.0}) as rig:
        await rig.create("a", "--ignore-sigterm")
        assert (await rig.post("a", "stop", wait=0))["status"] == "stopping"
        assert (await rig.post("a", "restart"))["code"] == "INVALID_INSTANCE_STATE"
        assert (await rig.post("a", "stop", wait=0))["status"] == "stopping"
        assert (await rig.until("a", "stopped"))["pid"] is None


async def test_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    async with running(tmp_path, instances={"stop_timeout_secs": 0.5}) as rig:
        view = await rig.create("a", "--ignore-sigterm", "--fork")
        assert len(group_members(view["pid"])) == 2
        assert (await rig.api.delete("/instances/a")).status_code == 204
        assert survivors(view["pid"]) == []


async def test_children_of_a_process_that_died_are_killed_too(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a", "--fork")
        os.kill(view["pid"], signal.SIGKILL)
        await rig.until("a", "starting")
        again = await rig.until("a", "running")
        assert again["pid"] != view["pid"]
        assert again["restarts"] == 1
        assert survivors(view["pid"]) == []


async def test_crash_is_noticed_at_once_and_told_in_the_history(tmp_path: Path) -> None:
    slow = Backoff(first=30, jitter=0)
    async with running(tmp_path, backoff=slow, health={"interval_secs": 60.0}) as rig:
        view = await rig.create("a")
        os.kill(view["pid"], signal.SIGKILL)
        crashed = await rig.until("a", "starting", limit=2)
        assert "SIGKILL" in crashed["status_reason"]
        events = (await rig.api.get("/instances/a/events")).json()
        assert [event["event"] for event in events][:3] == [
            "start requested",
            "ready",
            "process ended",
        ]
        assert (await rig.post("a", "stop"))["status"] == "stopped", "the back-off ends with it"


async def test_crash_loop_ends_in_failed_with_the_last_words(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        (tmp_path / "poison").touch()
        view = await rig.create("a", f"--die-if={tmp_path / 'poison'}")
        assert view["status"] == "failed"
        assert "Gave up after 3 failures in a row" in view["status_reason"]
        assert "the stub finds the file that kills it" in view["status_reason"]
        assert view["restarts"] == 2
        (tmp_path / "poison").unlink()
        assert (await rig.post("a", "start"))["status"] == "running"


async def test_failed_start_is_logged_as_an_error_and_a_fallback_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program("engine", (str(stub_binary(tmp_path)),), "the engine is used instead")
    monkeypatch.setattr("tei_manager.manager.registry.find_program", lambda *_: program)
    (tmp_path / "poison").touch()
    caplog.set_level(logging.WARNING)
    async with running(tmp_path) as rig:
        assert (await rig.create("a", f"--die-if={tmp_path / 'poison'}"))["status"] == "failed"
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, text in told if "the engine is used" in text] == ["WARNING"]
    assert [level for level, text in told if "Gave up after 3 failures" in text] == ["ERROR"]


async def test_instance_that_dies_later_is_started_again_until_it_is_a_loop(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as rig:
        assert (await rig.create("a", "--die-after=0.5"))["status"] == "running"
        failed = await rig.until("a", "failed")
        assert "exited with code 7" in failed["status_reason"]
        assert "the stub dies as it was told" in failed["status_reason"]
        events = (await rig.api.get("/instances/a/events")).json()
        assert [event["event"] for event in events].count("next attempt") == 2


async def test_start_up_time_out_is_enforced_for_each_instance(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a", "--never-healthy", startup_timeout_secs=4.0)
        assert view["status"] == "failed"
        assert "Not ready within 4 s" in view["status_reason"]
        assert "SERVING" in view["status_reason"]
        assert view["pid"] is None


async def test_slow_start_is_starting_until_it_answers(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a", "--slow-start=0.5", wait=0.1)
        assert view["status"] == "starting"
        assert (await rig.until("a", "running"))["health_check_failures"] == 0


async def test_router_that_cannot_compute_is_never_shown_as_running(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a", "--broken", startup_timeout_secs=4)
        assert view["status"] == "failed"
        assert "Embed answers FAILED_PRECONDITION" in view["status_reason"]


async def test_flood_of_output_blocks_nobody_and_is_kept_within_its_size(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        assert (await rig.create("a", "--flood=40"))["status"] == "running"
        supervisor = rig.manager.registry.get("a")
        log = supervisor.log
        async with asyncio.timeout(30):
            await supervisor._until(lambda: log.size() < MAX_BYTES)
        older = log.path.with_name("a.log.1").read_text()
        assert "the flood is over" in "\n".join([older[-200:], *log.tail(5)])


async def test_router_that_speaks_http_is_named_as_such(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a", "--speak-http")
        assert view["status"] == "failed"
        assert "install the gRPC build" in view["status_reason"]


async def test_hung_instance_turns_unhealthy_and_mends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.probe.TIMEOUT", 0.2)
    async with running(tmp_path, health={"failures_before_restart": 0}) as rig:
        view = await rig.create("a", "--hang")
        os.kill(view["pid"], signal.SIGUSR1)
        sick = await rig.until("a", "unhealthy")
        assert sick["health_check_failures"] >= 2
        assert "DEADLINE_EXCEEDED" in sick["status_reason"]
        os.kill(view["pid"], signal.SIGUSR2)
        assert (await rig.until("a", "running"))["pid"] == view["pid"]


async def test_hung_instance_is_restarted_after_the_configured_failures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.probe.TIMEOUT", 0.2)
    async with running(tmp_path, health={"failures_before_restart": 3}) as rig:
        view = await rig.create("a", "--hang")
        os.kill(view["pid"], signal.SIGUSR1)
        await rig.until("a", "starting")
        again = await rig.until("a", "running")
        assert again["pid"] != view["pid"]
        assert not alive(view["pid"])


async def test_stopped_instance_stays_stopped_over_a_new_manager(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("up")
        await rig.create("down")
        await rig.post("down", "stop")
    async with running(tmp_path) as rig:
        assert (await rig.until("up", "running"))["restarts"] == 0
        assert (await rig.show("down"))["status"] == "stopped"


async def test_delete_frees_name_and_leaves_no_log_behind(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        first = await rig.create("a")
        assert (tmp_path / "logs" / "a.log").exists()
        await rig.api.delete("/instances/a")
        assert not (tmp_path / "logs" / "a.log").exists()
        assert (await rig.api.get("/instances/a")).status_code == 404
        assert (await rig.create("a"))["created_at"] != first["created_at"]


async def test_two_deletes_at_once_are_both_answered(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        answers = await asyncio.gather(*(rig.api.delete("/instances/a") for _ in range(3)))
        assert {answer.status_code for answer in answers} <= {204, 404}
        assert 204 in {answer.status_code for answer in answers}


async def test_names_ports_and_limits_are_refused_with_their_codes(tmp_path: Path) -> None:
    async with running(tmp_path, instances={"max": 2}) as rig:
        view = await rig.create("a")
        assert (await rig.create("a"))["code"] == "INSTANCE_EXISTS"
        assert (await rig.create("b", port=view["port"]))["code"] == "PORT_CONFLICT"
        assert (await rig.create("b", port=9001))["code"] == "PORT_CONFLICT"
        own = rig.manager.address[1]
        assert (await rig.create("b", port=own))["code"] == "PORT_CONFLICT"
        await rig.create("b", autostart=False)
        assert (await rig.create("c"))["code"] == "MAX_INSTANCES_REACHED"
        names = [row["name"] for row in (await rig.api.get("/instances")).json()]
        assert names == ["a", "b"], "what was refused left nothing behind"


async def test_router_that_is_not_there_is_said_before_anything_is_made(tmp_path: Path) -> None:
    async with running(tmp_path, instances={"tei_binary": "no-such-router"}) as rig:
        answer = await rig.create("a", backend="tei")
        assert "no-such-router" in answer["error"]
        assert (await rig.create("a", gpu_id=0))["error"] == answer["error"], "no engine for a GPU"
        assert (await rig.api.get("/instances")).json() == []


async def test_external_instance_is_probed_and_never_ended(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        real = await rig.create("real")
        view = await rig.create("twin", backend="external", address=real["address"])
        assert (view["status"], view["pid"], view["backend"]) == ("running", None, "external")
        await rig.api.delete("/instances/twin")
        assert (await rig.show("real"))["status"] == "running"
        assert alive(real["pid"])


async def test_external_instance_has_the_time_that_it_was_given(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with running(tmp_path) as rig:
            fields: dict[str, Any] = {"backend": "external", "address": address}
            view = await rig.create("a", startup_timeout_secs=0.2, **fields)
            assert (view["status"], "Not ready within 0.2 s" in view["status_reason"]) == (
                "failed",
                True,
            )


async def test_port_that_was_taken_meanwhile_is_replaced_by_a_free_one(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a")
        await rig.post("a", "stop")
        squatter = await asyncio.start_server(lambda *_: None, "127.0.0.1", view["port"])
        async with squatter:
            again = await rig.post("a", "start")
            assert again["status"] == "running"
            assert again["port"] != view["port"]


async def test_logs_are_sliced_like_a_python_list(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        await rig.create("a")
        whole = (await rig.api.get("/instances/a/logs")).json()
        assert whole["total_lines"] == len(whole["lines"]) == whole["end"]
        assert whole["lines"][-1] == "Ready"
        last = (await rig.api.get("/instances/a/logs", params={"start": -1})).json()
        assert last["lines"] == ["Ready"]
        assert (last["start"], last["end"]) == (whole["total_lines"] - 1, whole["total_lines"])
        none = (await rig.api.get("/instances/a/logs", params={"start": 5, "end": 1})).json()
        assert none["lines"] == []


async def test_environment_of_an_instance_is_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every flag of the router has a twin in the environment (landmine L14)."""
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("HOSTNAME", "somewhere")
    monkeypatch.setenv("MY_SECRET", "x")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    async with running(tmp_path) as rig:
        await rig.create("a")
        first = (await rig.api.get("/instances/a/logs", params={"end": 1})).json()["lines"][0]
        assert "HF_HOME" in first
        assert not any(name in first for name in ("'PORT'", "HOSTNAME", "MY_SECRET"))


async def test_a_client_that_goes_away_leaves_no_half_made_instance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as rig:
        registry = rig.manager.registry
        insert = registry.store.insert

        async def insert_while_the_client_goes(*values: Any) -> Any:
            request.cancel()
            return await insert(*values)

        monkeypatch.setattr(registry.store, "insert", insert_while_the_client_goes)
        request = asyncio.create_task(rig.create("a"))
        with pytest.raises(asyncio.CancelledError):
            await request
        await asyncio.gather(*registry._tasks)
        assert (await rig.until("a", "running"))["status"] == "running"


async def test_many_instances_churned_at_once_leave_nothing_behind(tmp_path: Path) -> None:
    async def life(rig: Rig, name: str) -> int:
        view = await rig.create(name, "--fork")
        await asyncio.gather(rig.post(name, "restart"), rig.post(name, "stop", wait=0))
        await rig.api.delete(f"/instances/{name}")
        return int(view["pid"])

    async with running(tmp_path) as rig:
        pids = await asyncio.gather(*(life(rig, f"n{number}") for number in range(4)))
        assert [survivors(pid) for pid in pids] == [[], [], [], []]
        assert (await rig.api.get("/instances")).json() == []
        assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["mux-worker-0.log"]
