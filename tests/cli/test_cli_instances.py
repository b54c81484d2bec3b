"""``tei-manager instances`` against a serving manager: what is printed, and the exit codes."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from control_plane import FAKE_WORKER, QUICK, settings
from typer.testing import CliRunner

from tei_manager.api.app import create_app
from tei_manager.cli.main import app
from tei_manager.manager.manager import Manager

RUNNER = CliRunner()


class _Server(uvicorn.Server):
    """Says when it serves, and on which port."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the API of a manager that runs in a thread."""
    folder = tmp_path_factory.mktemp("m")
    manager = Manager(settings(folder), FAKE_WORKER, QUICK)
    config = uvicorn.Config(
        create_app(manager), log_config=None, lifespan="off", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    listener = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        try:
            await manager.start()
            await server.serve([listener])
        finally:
            await manager.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert server.ready.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def _run(api: str, *arguments: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["instances", *arguments, "--api", api])
    return result.exit_code, result.output


def _json(api: str, *arguments: str) -> Any:
    code, output = _run(api, *arguments, "--json")
    assert code == 0, output
    return json.loads(output)


def test_an_instance_is_led_through_its_life(api: str) -> None:
    created = _json(api, "create", "life", "org/model", "--pooling", "mean", "--wait", "30")
    assert (created["status"], created["pooling"]) == ("running", "mean")
    assert [row["name"] for row in _json(api, "list")] == ["life"]
    assert _json(api, "stop", "life", "--wait", "30")["status"] == "stopped"
    assert _json(api, "start", "life", "--wait", "30")["status"] == "running"
    assert _json(api, "restart", "life", "--wait", "30")["restarts"] == 1
    assert _json(api, "show", "life")["model_id"] == "org/model"
    assert _json(api, "logs", "life", "-n", "1")["lines"] == ["Ready"]
    assert _json(api, "delete", "life") == {"deleted": "life"}
    assert _json(api, "list") == []


def test_people_get_a_table_and_sentences(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "tei-manager instances create" in _run(api, "list")[1]
    assert _run(api, "create", "tab", "m", "--wait", "30")[1].startswith(
        "tab: running at 127.0.0.1:"
    )
    assert "tab" in _run(api, "list")[1]
    assert "max_batch_tokens" in _run(api, "show", "tab")[1]
    assert "Ready" in _run(api, "logs", "tab")[1]
    assert _run(api, "delete", "tab") == (0, "tab: deleted\n")


def test_exit_codes_tell_refused_from_missing(api: str) -> None:
    assert _run(api, "show", "none") == (3, "Error: Instance 'none' not found\n")
    assert _run(api, "delete", "../health")[0] == 3
    assert _run(api, "create", "twice", "m", "--no-start")[0] == 0
    code, output = _run(api, "create", "twice", "m")
    assert (code, "already exists" in output) == (1, True)
    assert _run(api, "stop", "twice") == (1, "Error: Instance 'twice' is stopped already\n")
    assert _run(api, "delete", "twice")[0] == 0


def test_instance_that_failed_makes_its_command_fail(api: str, tmp_path: Path) -> None:
    (tmp_path / "poison").touch()
    vice = f"--die-if={tmp_path / 'poison'}"
    code, output = _run(api, "create", "bad", "m", "--extra", vice, "--wait", "30")
    assert (code, "bad: failed" in output) == (1, True)
    assert _run(api, "delete", "bad")[0] == 0


def test_followed_log_goes_on_with_new_lines_until_the_instance_is_deleted(api: str) -> None:
    _json(api, "create", "tail", "m", "--wait", "30")
    command = [sys.executable, "-m", "tei_manager", "instances", "logs", "tail", "-f", "--api", api]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("environment: ")
        assert follower.stdout.readline() == "Ready\n"
        _json(api, "restart", "tail", "--wait", "30")
        assert follower.stdout.readline().startswith("environment: ")
        assert follower.stdout.readline() == "Ready\n"
        _json(api, "delete", "tail")
        assert follower.wait(30) == 0


def test_no_manager_is_an_exit_code_of_its_own_and_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, output = _run(f"http://127.0.0.1:{port}", "list")
    assert code == 4
    assert "tei-manager serve" in output


def test_address_that_is_none_is_one_sentence() -> None:
    code, output = _run("nonsense", "list")
    assert code == 1
    assert output.startswith("Error: ")
