"""Cores by affinity and by the quotas of control groups, in trees laid out as kernels do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tei_manager.engine import cores
from tei_manager.engine.cores import available_cores


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_affinity", lambda: 16)


def _machine(root: Path, memberships: str, files: dict[str, str]) -> int:
    """Lay out a machine's files and return what they amount to."""
    for name, content in {"proc/self/cgroup": memberships, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")
    return available_cores(root / "proc", root / "groups")


INNER = "0::/outer/inner"


@pytest.mark.parametrize(
    ("memberships", "files", "expected"),
    [
        (INNER, {}, 16),
        (INNER, {"outer/inner/cpu.max": "max 100000"}, 16),
        (INNER, {"outer/inner/cpu.max": "200000 100000"}, 2),
        (INNER, {"outer/inner/cpu.max": "150000 100000"}, 1),
        (INNER, {"outer/inner/cpu.max": "20000 100000"}, 1),
        (INNER, {"outer/inner/cpu.max": "3200000 100000"}, 16),
        (INNER, {"outer/inner/cpu.max": "800000 100000", "outer/cpu.max": "300000 100000"}, 3),
        (INNER, {"outer/inner/cpu.max": "odd"}, 16),
        ("0::/", {"cpu.max": "400000 100000"}, 4),
        ("0::/../../outside", {"cpu.max": "400000 100000"}, 4),
        (
            "3:cpuset:/x\n2:cpu,cpuacct:/x\n0::/",
            {"cpu,cpuacct/x/cpu.cfs_quota_us": "250000",
             "cpu,cpuacct/x/cpu.cfs_period_us": "50000"},
            5,
        ),
        (
            "2:cpu,cpuacct:/docker/4f",
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
            2,
        ),
        (
            "1:cpu:/x",
            {"cpu/x/cpu.cfs_quota_us": "-1", "cpu/x/cpu.cfs_period_us": "100000",
             "cpu/cpu.cfs_quota_us": "700000", "cpu/cpu.cfs_period_us": "100000"},
            7,
        ),
        ("1:cpu:/x", {"cpu/x/cpu.cfs_quota_us": "100000"}, 16),
        ("1:cpuset:/x", {"cpuset/x/cpu.max": "100000 100000"}, 16),
    ],
)  # fmt: skip
def test_the_smallest_quota_around_the_process_counts(
    memberships: str, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    tree = {f"groups/{name}": content for name, content in files.items()}
    assert _machine(tmp_path, memberships, tree) == expected


def test_a_system_without_control_groups_has_its_cores(tmp_path: Path) -> None:
    assert available_cores(tmp_path, tmp_path) == 16


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_a_process_that_is_held_to_one_core_sees_one() -> None:
    core = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, {{{core}}});"
        "from tei_manager.engine.cores import available_cores; print(available_cores())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert run.stdout == b"1\n"
