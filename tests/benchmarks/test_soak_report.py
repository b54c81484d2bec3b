"""A short soak with faults: what it counts is in its report, and a leak makes it fail."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.soak import MOST_MIB_A_MINUTE, POINTS, cells, page, summary
from soak import Figures

ROOT = Path(__file__).parents[2]
SECONDS = 6.0


@pytest.mark.timeout(240)
def test_a_short_soak_has_calls_faults_causes_and_lines_in_its_report(tmp_path: Path) -> None:
    files = [tmp_path / "soak.json", tmp_path / "soak.html"]
    argv = [sys.executable, "-m", "benchmarks.soak", f"--seconds={SECONDS:g}", "--pause=0.2"]
    argv += [f"--json={files[0]}", f"--html={files[1]}"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=200)
    found = json.loads(files[0].read_text())
    # In so short a time the memory's slope says little: Python's arenas come in steps of one MiB.
    other = [told for told in found["complaints"] if not told.startswith("memory grows")]
    assert not other, done.stderr
    assert done.returncode == bool(found["complaints"])
    assert found["faults"]["killed"] > 0
    assert sum(found["calls"].values()) > 50
    assert found["wrong"] == 0
    assert sum(found["failed while away"].values()) == found["calls"].get("away", 0)
    assert found["about"]["command"] == "python -m benchmarks.soak --seconds 6 --pause 0.2"
    assert files[1].read_text().count("<svg") == 2


def leaking(**what: object) -> Figures:
    figures = Figures()
    figures.fds = (10, 10)
    figures.memory = [(float(second), 30.0) for second in range(3600)]
    figures.descriptors = list(figures.memory)
    for name, value in what.items():
        setattr(figures, name, value)
    return figures


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ({"wrong": ["unary: wrong octets"]}, "1 calls ended wrongly, such as"),
        ({"fds": (10, 12)}, "2 file descriptors are left"),
        ({"gauges": {"requests_in_flight": 3.0}}, "3 calls or connections are left open"),
        ({"memory": [(float(s), 30 + s / 600) for s in range(3600)]}, "memory grows by 0.100 MiB"),
    ],
)
def test_what_is_lost_or_leaks_is_a_complaint(what: dict[str, object], complaint: str) -> None:
    (found,) = leaking(**what).complaints(3600, MOST_MIB_A_MINUTE)
    assert found.startswith(complaint)


def test_an_hour_has_no_more_points_than_a_chart_can_show() -> None:
    found = summary(leaking(), 3600, 30)
    assert not found["complaints"]
    assert len(found["memory"]) <= POINTS
    assert ["verdict", "nothing lost, nothing leaked"] in cells(found)
    assert "<svg" in page(found)
