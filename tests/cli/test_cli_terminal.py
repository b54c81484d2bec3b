"""What a person at a terminal sees: live views, bars, tables that fit, an end by Ctrl-C."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from tei_manager.cli.main import app
from tei_manager.cli.terminal import duration, milliseconds, octets

RUNNER = CliRunner()
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal:
    """A command that runs on a terminal of its own."""

    def __init__(self, process: subprocess.Popen[bytes], screen: int) -> None:
        self.process = process
        self._screen = screen
        self.seen = ""

    def until(self, words: str) -> None:
        """Read until the words were written; the test's time-out ends a wait in vain."""
        while words not in self.seen:
            self._read()

    def rest(self) -> str:
        """Read until the command ends."""
        try:
            while True:
                self._read()
        except OSError:
            return self.seen

    def _read(self) -> None:
        octets = os.read(self._screen, 4096)
        if not octets:
            raise OSError("the command has ended")
        self.seen += ESCAPES.sub("", octets.decode("utf-8", "replace"))


@contextmanager
def terminal(api: str, *arguments: str, columns: int = 100) -> Iterator[Terminal]:
    """Run ``tei-manager instances`` on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    command = [sys.executable, "-m", "tei_manager", "instances", *arguments, "--api", api]
    environ = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            if process.poll() is None:
                process.kill()
            os.close(ours)


@pytest.fixture
def instance(api: str) -> Iterator[str]:
    """An instance with a long name of its model, which is up."""
    body = {"name": "a", "model_id": "organisation/a-model-with-quite-a-long-name-v1.5"}
    answer = httpx.post(f"{api}/instances?wait=60", json=body, timeout=70, trust_env=False)
    assert answer.json()["status"] == "running"
    yield "a"
    httpx.delete(f"{api}/instances/a", timeout=70, trust_env=False)


def test_top_draws_until_ctrl_c(api: str, instance: str) -> None:
    with terminal(api, "top", "--interval", "0.1") as screen:
        screen.until("calls in flight")
        screen.until("running")
        screen.process.send_signal(signal.SIGINT)
        screen.rest()
        assert screen.process.wait(30) == 0
        assert "MiB" in screen.seen
        assert "Traceback" not in screen.seen


def test_top_without_a_terminal_looks_once(api: str, instance: str) -> None:
    result = RUNNER.invoke(app, ["instances", "top", "-i", "0.1", "--api", api])
    assert result.exit_code == 0, result.output
    assert result.output.count("calls in flight") == 1
    result = RUNNER.invoke(
        app, ["instances", "top", "-i", "0.1", "-n", "2", "--json", "--api", api]
    )
    views = [json.loads(line) for line in result.output.splitlines()]
    assert [view["instances"][0]["status"] for view in views] == ["running", "running"]
    assert views[0]["workers"] == 1


def test_waiting_shows_a_bar_with_the_last_words_of_the_instance(api: str, tmp_path: Path) -> None:
    vice = "--slow-start=1.5"
    with terminal(api, "create", "b", "m", "--extra", vice, "--wait", "60") as screen:
        screen.until("b: starting")
        screen.until("environment: ")
        assert "b: running at 127.0.0.1:" in screen.rest()
        assert screen.process.wait(30) == 0
    httpx.delete(f"{api}/instances/b", timeout=70, trust_env=False)


@pytest.mark.parametrize("columns", [60, 80, 110, 200])
def test_list_fits_the_terminal_with_one_line_for_each_instance(
    api: str, instance: str, columns: int
) -> None:
    with terminal(api, "list", columns=columns) as screen:
        lines = screen.rest().splitlines()
    assert len(lines) == 2
    assert all(len(line) <= columns for line in lines)
    assert lines[1].split()[:2] == ["a", "running"]


def test_interrupted_log_is_no_failure(api: str, instance: str) -> None:
    with terminal(api, "logs", instance, "-f") as screen:
        screen.until("Ready")
        screen.process.send_signal(signal.SIGINT)
        screen.rest()
        assert screen.process.wait(30) == 0
        assert "Traceback" not in screen.seen


def test_figures_are_in_units_that_people_read() -> None:
    assert [duration(s) for s in (None, 65, 3660, 90_000)] == ["-", "1m05s", "1h01m", "1d01h"]
    assert [octets(n) for n in (None, 5, 2**20, 3 * 2**30)] == ["-", "5 B", "1 MiB", "3.0 GiB"]
    assert [milliseconds(s) for s in (None, 0.00125)] == ["-", "1.25 ms"]
