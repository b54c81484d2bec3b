"""`make run`: what it shows, what it says when something is in the way, what it leaves behind."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

import tiny_models

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tools" / "run_demo.py"

pytestmark = pytest.mark.timeout(300)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in sockets]
    for server in sockets:
        server.close()
    return ports


def run_demo(*arguments: object, python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *python, str(DEMO), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


@contextmanager
def demo(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run the demonstration; on leaving, kill what is left of it."""
    command = [sys.executable, str(DEMO), *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            for descendant in descendants(process.pid):
                descendant.kill()
            process.kill()
        process.communicate()


def descendants(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def lines_until(process: subprocess.Popen[str], start: str) -> list[str]:
    """Read output lines up to the one that begins with ``start``."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if line.startswith(start):
            return lines
    raise AssertionError(f"ended before it said '{start}': {lines}")


@pytest.fixture
def state() -> Iterator[Path]:
    """Yield a folder with a short path, because the paths of Unix sockets must be short."""
    with tempfile.TemporaryDirectory(prefix="tei-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_shows_an_embedding_and_leaves_no_process_behind(
    state: Path, number: signal.Signals
) -> None:
    api_port, grpc_port = free_ports(2)
    options = ["--api-port", api_port, "--grpc-port", grpc_port, "--state", state]
    with demo(*options) as process:
        lines = lines_until(process, "Serving")
        started = descendants(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=60) == 0
        _, alive = psutil.wait_procs(started, timeout=10)
    found = re.search(r'"Hello world" -> 384 numbers, length ([\d.]+), in ([\d.]+) ms', lines[1])
    assert found, lines
    assert float(found[1]) == pytest.approx(1, abs=1e-5)
    assert re.fullmatch(r"\[(-?\d\.\d{6}, ){6}\.\.\.\]", lines[2])
    assert len(started) >= 3, "a manager, a worker and an instance"
    assert not alive


@pytest.mark.parametrize(
    ("head", "pooling", "expected"),
    [
        ("classifier", [], r'"Hello world" -> (\w+: [\d.]+(, )?){3}$'),
        ("reranker", [], r'"What is the capital of France\?" ->$'),
        ("splade", ["--pooling", "splade"], r'"Hello world" -> \d+ weights that are not zero$'),
    ],
)
def test_a_model_of_another_kind_shows_what_it_is_for(
    head: str, pooling: list[str], expected: str, state: Path, tmp_path: Path
) -> None:
    model = tiny_models.write(tmp_path / head, "bert", head).directory
    api_port, grpc_port = free_ports(2)
    ports = ["--api-port", api_port, "--grpc-port", grpc_port, "--state", state]
    with demo(*ports, "--model", model, *pooling) as process:
        lines = lines_until(process, "Serving")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    assert re.match(expected, lines[1]), lines


@pytest.mark.parametrize("variable", ["API_PORT", "GRPC_PORT"])
def test_a_busy_port_is_named_in_one_sentence(state: Path, variable: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        busy, free = taken.getsockname()[1], free_ports(1)[0]
        ports = (busy, free) if variable == "API_PORT" else (free, busy)
        done = run_demo("--api-port", ports[0], "--grpc-port", ports[1], "--state", state)
    assert done.returncode == 1
    assert done.stdout == ""
    (sentence,) = done.stderr.splitlines()
    assert f"port {busy}" in sentence
    assert f"make run {variable}=" in sentence
    assert not list(state.iterdir())


def test_a_missing_package_is_named_in_one_sentence(state: Path) -> None:
    done = run_demo("--state", state, python=("-I", "-S"))
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "lacks tei_manager, grpc, httpx" in sentence
    assert "make clean" in sentence


def test_a_python_without_the_venv_module_is_named_in_one_sentence(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n", "utf-8")
    python.chmod(0o755)
    done = make("run", f"PYTHON={python}", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    sentence = done.stderr.splitlines()[0]
    assert sentence.startswith(f"{python} lacks the venv module: install it")
    assert not (tmp_path / "venv").exists()


def test_a_machine_without_a_new_python_is_told_so_in_one_sentence(tmp_path: Path) -> None:
    done = make("run", "PYTHON=", f"VENV={tmp_path}/venv")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("No Python 3.11 or later is on the PATH")


def test_a_second_run_installs_nothing(tmp_path: Path) -> None:
    for stamp in (".venv-ready", ".run-ready"):
        (tmp_path / stamp).touch()
    assert "pip" not in make("-n", "run", f"VENV={tmp_path}").stdout
    assert "pip" in make("-n", "run", f"VENV={tmp_path}/fresh").stdout


def test_help_tells_of_every_command() -> None:
    shown = make("help").stdout
    for command in ("run", "test", "check", "bench", "protos", "clean"):
        assert re.search(rf"^  make {command}\t\w", shown, re.M), command
