"""``tei-manager serve`` as a process: what it says, how signals end it, what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from control_plane import FAKE_WORKER, alive, survivors
from served import Served, command_of, served


def _children(served: Served) -> list[int]:
    return [child.pid for child in psutil.Process(served.process.pid).children(recursive=True)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_stops_everything_in_order_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    with served(tmp_path) as manager:
        view = manager.create("a", "--fork")
        children = _children(manager)
        assert view["pid"] in children
        assert len(children) >= 3, "worker, router, the router's child"
        assert manager.end(number) == 0
        assert survivors(view["pid"]) == []
        assert [pid for pid in children if alive(pid)] == []


def test_second_interrupt_does_not_wait_for_an_instance_that_ignores_the_first(
    tmp_path: Path,
) -> None:
    with served(tmp_path, stop_timeout_secs=300.0) as manager:
        view = manager.create("a", "--ignore-sigterm", "--fork")
        manager.process.send_signal(signal.SIGINT)
        manager.read_until("Stopping")
        assert alive(view["pid"])
        assert manager.end(signal.SIGINT, limit=10) == 0
        assert survivors(view["pid"]) == []


def test_instances_come_back_with_the_next_manager(tmp_path: Path) -> None:
    with served(tmp_path) as manager:
        manager.create("a")
        manager.end(signal.SIGTERM)
    with served(tmp_path) as manager:
        rows = httpx.get(f"{manager.url}/instances", trust_env=False).json()
        assert [row["name"] for row in rows] == ["a"]
        assert rows[0]["status"] in ("starting", "running")


def _show(manager: Served, name: str) -> Any:
    return httpx.get(f"{manager.url}/instances/{name}", trust_env=False).json()


@pytest.fixture
def outliving() -> Iterator[list[int]]:
    """Numbers of process groups that outlive a manager; killed at last if the test fails."""
    groups: list[int] = []
    yield groups
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def test_sigterm_leaves_instances_running_if_told_so_and_the_next_manager_goes_on_with_them(
    tmp_path: Path, outliving: list[int]
) -> None:
    with served(tmp_path, on_exit="leave") as manager:
        pid = manager.create("a", "--fork")["pid"]
        outliving.append(pid)
        assert manager.end(signal.SIGTERM) == 0
        assert alive(pid)
    with served(tmp_path, on_exit="leave") as manager:
        view = _show(manager, "a")
        assert (view["status"], view["pid"], view["restarts"]) == ("running", pid, 0)
        assert manager.end(signal.SIGINT) == 0
        assert survivors(pid) == []


def test_instances_of_a_manager_that_was_killed_are_found_again_or_ended(
    tmp_path: Path, outliving: list[int]
) -> None:
    with served(tmp_path) as manager:
        kept = manager.create("kept")["pid"]
        outliving.append(kept)
        lost = manager.create("lost")["pid"]
        httpx.post(f"{manager.url}/instances/lost/stop", params={"wait": 30}, trust_env=False)
        assert not alive(lost)
        manager.end(signal.SIGKILL)
        assert alive(kept)
    with served(tmp_path) as manager:
        assert _show(manager, "kept")["pid"] == kept
        assert _show(manager, "lost")["status"] == "stopped"
        os.kill(kept, signal.SIGKILL)
        manager.read_until("Instance 'kept': ready")
        again = _show(manager, "kept")
        assert again["pid"] != kept
        assert again["restarts"] == 1
        assert manager.end(signal.SIGINT) == 0
        assert not alive(again["pid"])


def test_workers_that_serve_on_never_hear_that_a_running_instance_is_another_or_starts(
    tmp_path: Path, outliving: list[int]
) -> None:
    def routes() -> list[Any]:
        lines = (tmp_path / "run" / "tables").read_text().splitlines()
        return [json.loads(line)["routes"] for line in lines]

    with served(tmp_path) as manager:
        outliving.append(manager.create("a")["pid"])
        before = routes()
        manager.end(signal.SIGKILL)
    with served(tmp_path):
        while len(after := routes()) == len(before):
            pass  # the test's time-out ends it
    assert [route["state"] for route in before[-1]] == ["running"]
    assert after[len(before)] == before[-1]


def test_port_of_the_multiplexer_is_held_by_the_manager_and_its_worker(tmp_path: Path) -> None:
    with served(tmp_path) as manager:
        address = manager.lines[-1]["message"].rpartition("gRPC on ")[2]
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=5):
            pass
        assert manager.end(signal.SIGTERM) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)


def _fails(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert "Traceback" not in done.stderr
    return last


@pytest.mark.parametrize("flag", ["--api-port", "--grpc-port"])
def test_busy_port_is_named_in_one_sentence(tmp_path: Path, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        sentence = _fails(command_of(tmp_path, flag, str(port)))
    assert f"Cannot listen on 127.0.0.1:{port}" in sentence
    assert "port" in sentence


def test_token_file_that_others_can_read_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("correct-horse-battery-staple")
    (tmp_path / "token").chmod(0o644)
    monkeypatch.setenv("TEI_MANAGER_API_TOKEN_FILE", str(tmp_path / "token"))
    assert f"chmod 600 {tmp_path / 'token'}" in _fails(command_of(tmp_path))


def test_ports_that_everybody_may_use_are_said_aloud(tmp_path: Path) -> None:
    command = command_of(tmp_path, "--api-host", "0.0.0.0", "--grpc-host", "0.0.0.0")
    assert "opens an API without authentication" in _fails(command)
    config = tmp_path / "config.toml"
    config.write_text(config.read_text().replace("[api]", "[api]\nallow_insecure = true"))
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        served = Served(process)
        for line, section in zip(served.lines, ("[api]", "[grpc]"), strict=False):
            assert line["level"] == "warning"
            assert line["message"].startswith(section)
            assert "everyone who reaches 0.0.0.0" in line["message"]
        assert served.end(signal.SIGINT) == 0


def test_second_manager_on_the_same_state_is_refused(tmp_path: Path) -> None:
    with served(tmp_path) as manager:
        sentence = _fails(command_of(tmp_path))
        assert f"Another TEI Manager (pid {manager.process.pid})" in sentence


def test_signal_while_workers_start_stops_the_start(tmp_path: Path) -> None:
    command = command_of(tmp_path)
    deaf = f"({sys.executable!r}, '-c', 'import signal; print(1, flush=True); signal.pause()')"
    command[2] = command[2].replace(repr(FAKE_WORKER), deaf)
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        log = tmp_path / "logs" / "mux-worker-0.log"
        (tmp_path / "logs").mkdir()
        os.mkfifo(log)
        with log.open() as output:
            assert output.readline() == "1\n"
        children = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert [pid for pid in children if alive(pid)] == []
