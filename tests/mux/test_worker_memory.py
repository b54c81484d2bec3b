"""An idle worker is small, started by a manager or by a command line."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from multiplexer import table

from tei_manager.manager.link import reach
from tei_manager.mux import worker as worker_module

LIMIT_MB = 32
"""What a worker may have resident when it is idle; it is 27 with compiled modules, 31 without."""

SLACK_MB = 3
"""What another build of Python may need beyond that."""

FOREIGN = {"pydantic", "fastapi", "grpc", "google", "prometheus_client", "typer", "rich", "click"}


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(worker_module.__file__).parents[2])}


@contextmanager
def running(*arguments: str, fd: int = -1) -> Iterator[subprocess.Popen[bytes]]:
    """A process of this Python, killed at the end."""
    process = subprocess.Popen(
        (sys.executable, "-m", *arguments),
        pass_fds=(fd,) if fd >= 0 else (),
        env=environment(),
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def resident_mb(pid: int) -> float:
    """What is resident, of shared libraries all that this process has touched."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except FileNotFoundError:
        pytest.skip("the system does not say what a process has resident")
    return int(re.findall(r"^Rss: +(\d+) kB", text, re.M)[0]) / 1024


def connect(path: Path) -> socket.socket:
    """Connect as a manager does, as soon as there is a socket."""
    connection = asyncio.run(reach(path, 60))
    connection.setblocking(True)
    return connection


def test_a_managers_worker_that_is_idle_is_small(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        flags = ("--listen-fd", str(fd), "--control", str(tmp_path / "w"))
        with (
            running("tei_manager.mux.worker", *flags, fd=fd) as process,
            connect(tmp_path / "w") as connection,
            connection.makefile("rwb") as lines,
        ):
            order = json.loads(table(("a", 1)).to_json()) | {"type": "table"}
            lines.write(json.dumps(order).encode() + b"\n")
            lines.flush()
            kinds = (json.loads(line)["type"] for line in lines)
            assert "applied" in kinds
            assert "counters" in kinds, "the start is over"
            assert resident_mb(process.pid) <= LIMIT_MB + SLACK_MB


def test_a_worker_of_the_command_line_has_nothing_of_the_command_line() -> None:
    command = ("tei_manager", "mux", "--listen", "127.0.0.1:0", "--route", "a=127.0.0.1:1")
    with running(*command) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"multiplexer listens on")
        assert resident_mb(process.pid) <= LIMIT_MB + SLACK_MB


def test_a_worker_loads_nothing_that_the_data_path_does_not_need() -> None:
    program = "import tei_manager.mux.worker, sys; print(*sys.modules)"
    command = (sys.executable, "-c", program)
    loaded = subprocess.check_output(command, env=environment(), text=True).split()
    assert {name.partition(".")[0] for name in loaded} & FOREIGN == set()


def test_a_busy_port_of_the_command_line_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as squatter:
        port = squatter.getsockname()[1]
        route = ("--route", "a=127.0.0.1:1")
        command = ("-m", "tei_manager", "mux", "--listen", f"127.0.0.1:{port}", *route)
        done = subprocess.run(
            (sys.executable, *command), env=environment(), capture_output=True, timeout=60
        )
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    assert done.stderr.count(b"\n") == 1
