"""External instances beyond this machine: allowed, looked up once, never the manager itself."""

from __future__ import annotations

import asyncio
import socket
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from control_plane import running
from fake_tei import FakeTei, fake_tei

from tei_manager.errors import PortConflict, ValidationFailed
from tei_manager.manager.external import check, look_up
from tei_manager.manager.lifecycle import Backoff
from tei_manager.manager.supervisor import Supervisor
from tei_manager.resolver import Resolver
from tei_manager.settings import AllowList

pytestmark = pytest.mark.asyncio

NAME = "gpu.example"

HANGING = 40
"""Names; the loop's own executor has 32 threads at most."""


class Names:
    """A name server in the place of the system's: what is not in it, it does not know."""

    def __init__(self) -> None:
        self.known: dict[str, list[str]] = {}
        self.asked: list[str] = []

    def answer(self, host: str, port: int, *_: Any, **__: Any) -> Any:
        self.asked.append(host)
        if host not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        kind = socket.SOCK_STREAM
        return [(socket.AF_INET, kind, 6, "", (address, port)) for address in self.known[host]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    server, system = Names(), socket.getaddrinfo

    def getaddrinfo(host: Any, *rest: Any, **options: Any) -> Any:
        answers = server.answer if str(host).endswith(".example") else system
        return answers(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return server


async def test_a_name_that_is_allowed_is_what_it_stands_for_now(names: Names) -> None:
    names.known[NAME] = ["10.0.0.7", "10.0.0.8"]
    assert await look_up(f"{NAME}:80", AllowList([NAME]), (), Resolver()) == "10.0.0.7"
    names.known[NAME] = ["10.0.0.8"]
    assert await look_up(f"{NAME}:80", AllowList(["*"]), (), Resolver()) == "10.0.0.8"


async def test_a_name_is_not_allowed_by_the_address_that_it_stands_for(names: Names) -> None:
    names.known[NAME] = ["10.0.0.7"]
    with pytest.raises(ValidationFailed, match=r"'gpu.example' is not a loopback address"):
        await look_up(f"{NAME}:80", AllowList(["10.0.0.7"]), (), Resolver())
    assert names.asked == []


@pytest.mark.parametrize("found", ["169.254.169.254", "::ffff:169.254.169.254", "0.0.0.0"])
async def test_a_name_that_is_allowed_never_stands_for_the_metadata_service(
    names: Names, found: str
) -> None:
    names.known[NAME] = ["10.0.0.7", found]
    with pytest.raises(ValidationFailed, match=r"'gpu.example' stands for"):
        await look_up(f"{NAME}:80", AllowList([NAME, "*"]), (), Resolver())


async def test_own_ports_are_refused_here_and_nowhere_else(names: Names) -> None:
    names.known[NAME] = ["127.0.0.1"]
    anywhere = AllowList(["*"])
    with pytest.raises(PortConflict, match="manager's own"):
        check("[::ffff:127.0.0.1]:9001", anywhere, {9001})
    with pytest.raises(PortConflict, match="manager's own"):
        await look_up(f"{NAME}:9001", anywhere, {9001}, Resolver())
    assert str(check("192.0.2.1:9001", anywhere, {9001})) == "192.0.2.1"


async def test_instance_at_a_name_runs_and_the_workers_get_the_address(
    tmp_path: Path, names: Names
) -> None:
    names.known[NAME] = ["127.0.0.1"]
    async with (
        fake_tei() as tei,
        running(tmp_path, instances={"external_hosts": [NAME]}) as rig,
    ):
        where: dict[str, Any] = {"backend": "external", "address": f"{NAME}:{tei.port}"}
        view = await rig.create("far", model_id="org/model-1", **where)
        assert (view["status"], view["address"]) == ("running", where["address"])
        route = rig.tables()[-1]["routes"][0]
        assert (route["host"], route["port"]) == ("127.0.0.1", tei.port)


async def test_name_that_is_not_known_is_looked_up_until_it_is(
    tmp_path: Path, names: Names
) -> None:
    async with (
        fake_tei() as tei,
        running(tmp_path, instances={"external_hosts": [NAME]}) as rig,
    ):
        where: dict[str, Any] = {"backend": "external", "address": f"{NAME}:{tei.port}"}
        view = await rig.create("far", model_id="org/model-1", wait=0.2, **where)
        assert view["status"] == "starting"
        supervisor = rig.manager.registry.get("far")
        async with asyncio.timeout(20):
            await supervisor._until(
                lambda: supervisor.record.restarts > 5 and "looked up" in supervisor.status.reason
            )
        names.known[NAME] = ["127.0.0.1"]
        assert (await rig.until("far", "running"))["status_reason"] == ""


async def test_another_model_at_the_same_address_gets_no_calls(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        async with fake_tei(1) as tei:
            where: dict[str, Any] = {"backend": "external", "address": f"127.0.0.1:{tei.port}"}
            await rig.create("far", model_id="org/model-1", **where)
        other = FakeTei(2)
        await other.start(tei.port)
        failures = (await rig.until("far", "unhealthy"))["health_check_failures"]
        supervisor = rig.manager.registry.get("far")
        async with asyncio.timeout(20):
            await supervisor._until(lambda: supervisor.status.health_check_failures > failures + 2)
        assert supervisor.status.state == "unhealthy", "it answers, and is somebody else"
        assert rig.tables()[-1]["routes"][0]["state"] == "unhealthy"
        await other.stop()
        again = FakeTei(1)
        await again.start(tei.port)
        assert (await rig.until("far", "running"))["status_reason"] == ""
        await again.stop()


async def test_name_server_that_does_not_answer_holds_up_one_instance(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.external._LIMIT", 0.1)
    answered = threading.Event()
    monkeypatch.setattr(names, "answer", lambda *_, **__: answered.wait(30) and [])
    try:
        async with running(tmp_path, instances={"external_hosts": [NAME]}) as rig:
            where: dict[str, Any] = {"backend": "external", "address": f"{NAME}:80"}
            await rig.create("far", wait=0, **where)
            supervisor = rig.manager.registry.get("far")
            async with asyncio.timeout(20):
                await supervisor._until(
                    lambda: "no answer within 0.1 s" in supervisor.status.reason
                )
            assert (await rig.create("near"))["status"] == "running"
    finally:
        answered.set()


async def test_names_that_hang_hold_one_thread_each_and_none_that_others_wait_for(
    tmp_path: Path, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.manager.external._LIMIT", 0.05)
    answered, tries = threading.Event(), 3
    hang = [f"far-{number}.example" for number in range(HANGING)]

    def answer(host: str, *_: Any, **__: Any) -> Any:
        names.asked.append(host)
        return answered.wait(60) and []

    monkeypatch.setattr(names, "answer", answer)
    try:
        rules = {"external_hosts": ["*"]}
        async with running(tmp_path, backoff=Backoff(0.05, 0.05), instances=rules) as rig:
            for number, host in enumerate(hang):
                where: dict[str, Any] = {"backend": "external", "address": f"{host}:80"}
                await rig.create(f"far-{number}", wait=0, **where)
            for supervisor in rig.manager.registry._supervisors.values():
                async with asyncio.timeout(30):
                    await supervisor._until(partial(_has_tried, supervisor, tries))
            assert sorted(names.asked) == sorted(hang)
            async with asyncio.timeout(5):  # on the threads that everything else shares
                assert await asyncio.to_thread(lambda: "done") == "done"
    finally:
        answered.set()


def _has_tried(supervisor: Supervisor, times: int) -> bool:
    return supervisor.record.restarts >= times


async def test_entry_that_is_taken_away_counts_at_the_next_start(
    tmp_path: Path, names: Names
) -> None:
    names.known[NAME] = ["127.0.0.1"]
    rules = {"external_hosts": [NAME]}
    async with fake_tei() as tei:
        where: dict[str, Any] = {"backend": "external", "address": f"{NAME}:{tei.port}"}
        async with running(tmp_path, instances=rules) as rig:
            await rig.create("far", model_id="org/model-1", **where)
        async with running(tmp_path) as rig:
            view = await rig.until("far", "failed")
            assert "[instances] external_hosts has to list it" in view["status_reason"]


async def test_create_request_for_elsewhere_is_refused_with_the_setting_to_change(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as rig:
        body = {"name": "a", "model_id": "m", "backend": "external", "address": "10.0.0.1:80"}
        answer = await rig.api.post("/instances", json=body)
        assert (answer.status_code, answer.json()["code"]) == (422, "VALIDATION_ERROR")
        assert answer.json()["error"] == (
            "address: '10.0.0.1' is not a loopback address; "
            "[instances] external_hosts has to list it"
        )
        assert (await rig.api.get("/instances")).json() == []
