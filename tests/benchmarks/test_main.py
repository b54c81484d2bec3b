"""The command measures every point, and writes no file of a run that failed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.client import LoadError
from benchmarks.points import ROWS
from benchmarks.results import Results
from tei_manager.bench.results import DIRECT, OURS

ROOT = Path(__file__).parents[2]
SECONDS = 110

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU is read from Linux's /proc")


def test_a_run_writes_the_figures_of_every_row(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    argv = [
        sys.executable,
        "-m",
        "benchmarks",
        "--quick",
        "--rounds=1",
        "--peers",
        f"--json={file}",
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    results = Results.read(file)
    assert re.match(r"\d+% of the cores' time", results.about["disturbed"])
    assert all(results.figure(row, OURS) > 0 for row in ROWS if not row.added)
    assert all(DIRECT in results.rounds[row.point] for row in ROWS if row.added)


def test_a_run_in_which_a_call_fails_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> list[str]:
        raise LoadError("the proxy reset a call: 8")

    file = tmp_path / "run.json"
    monkeypatch.setattr(sys, "argv", ["benchmarks", f"--json={file}"])
    monkeypatch.setattr(command, "_run", fail)
    monkeypatch.setattr(command, "pin", lambda core: None)
    monkeypatch.setattr(command, "wake_exactly", lambda: None)
    assert command.main() == 1
    assert "no figures, since a call failed: the proxy reset a call: 8" in capsys.readouterr().err
    assert not file.exists()
