"""``tei-manager serve`` as a process that a test starts, steers and ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from control_plane import FAKE_WORKER, free_ports, stub_binary

# The command line, with a stand-in for the mux worker.
WITH_FAKE_WORKER = f"""
import sys
from tei_manager.manager import manager
manager.Manager.__init__.__defaults__ = ({FAKE_WORKER!r}, None)
from tei_manager.cli.main import main
main()
"""


class Served:
    """A serving manager: its process and the address of its API."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        serving = self.read_until("Serving: ")
        self.url = re.findall(r"http://[0-9.:]+", serving)[0]

    def read_until(self, begin: str) -> str:
        """Read the log up to a line; the test's time-out ends a wait for one that never comes."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(json.loads(line))
            if self.lines[-1]["message"].startswith(begin):
                return str(self.lines[-1]["message"])
        raise AssertionError(f"no line {begin!r} in {self.lines}")

    def create(self, name: str, *extra_args: str) -> Any:
        body = {"name": name, "model_id": "m", "extra_args": extra_args}
        url = f"{self.url}/instances"
        return httpx.post(url, json=body, params={"wait": 30}, timeout=40, trust_env=False).json()

    def end(self, number: int, limit: float = 30) -> int:
        self.process.send_signal(number)
        return self.process.wait(limit)


def command_of(folder: Path, *flags: str, **instances: Any) -> list[str]:
    each = instances.get("ports", 3)
    start = free_ports(2 * each)
    config = folder / "config.toml"
    config.write_text(
        f"""
        [api]
        port = 0
        [grpc]
        multiplexer_port = 0
        [instances]
        port_start = {start}
        port_end = {start + each - 1}
        metrics_port_start = {start + each}
        metrics_port_end = {start + 2 * each - 1}
        max = {instances.get("max", 64)}
        tei_binary = "{stub_binary(folder)}"
        log_dir = "{folder / "logs"}"
        stop_timeout_secs = {instances.get("stop_timeout_secs", 5.0)}
        on_exit = "{instances.get("on_exit", "stop")}"
        [state]
        path = "{folder / "state.db"}"
        [log]
        format = "json"
        """
    )
    return [sys.executable, "-c", WITH_FAKE_WORKER, "serve", "--config", str(config), *flags]


@contextmanager
def served(
    folder: Path, tables: str = "", real_worker: bool = False, **instances: Any
) -> Iterator[Served]:
    """Run a manager in a folder; ``tables`` are added to its settings file, ``config.toml``."""
    command = command_of(folder, **instances)
    with (folder / "config.toml").open("a") as config:
        config.write(tables)
    if real_worker:
        command[1:3] = ["-m", "tei_manager"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Served(process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.send_signal(signal.SIGINT)
                process.wait(20)
