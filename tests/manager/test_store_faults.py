"""A disk that fails and a manager that is killed, at every system call on the state file."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tei_manager.manager.instance import Desired
from tei_manager.manager.store import Store

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace injects the faults"),
]

_CALLS = "pwrite64,fsync,fdatasync,ftruncate,openat,unlink"

# What the state says of "a" after so many answers.
_STATES = [None, Desired.RUNNING, Desired.STOPPED, None]

_STEPS = """
import asyncio, os, sys
from dataclasses import replace
from pathlib import Path
from tei_manager.manager.instance import Desired, Origin
from tei_manager.manager.store import Store
from tei_manager.settings import InstanceSpec

def answer(): os.write(1, b"answered\\n")

async def main():
    store = Store(Path(sys.argv[1]))
    spec = InstanceSpec(name=sys.argv[2], model_id="m")
    record = await store.insert(spec, 1, 2, Desired.RUNNING, Origin.API)
    answer()
    if sys.argv[2] == "a":
        await store.update(replace(record, desired=Desired.STOPPED))
        answer()
        await store.delete(record)
        answer()
    os._exit(0)

asyncio.run(main())
"""


def _run(path: Path, name: str, *strace: str) -> tuple[int, str]:
    """Take an instance through its steps; return how many were answered, and the trace."""
    trace = path.with_name("trace")
    watched = [word for file in (path, f"{path}-wal") for word in ("-P", str(file))]
    command = ["strace", "-f", "-qq", "-o", str(trace), *watched, *strace] if strace else []
    done = subprocess.run(
        [*command, sys.executable, "-c", _STEPS, str(path), name],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.count(b"answered"), trace.read_text() if strace else ""


async def _look(path: Path) -> dict[str, Desired]:
    store = Store(path)
    try:
        return {record.spec.name: record.desired for record in await store.records()}
    finally:
        await store.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", ["error=ENOSPC", "error=EIO", "signal=KILL"])
async def test_fault_at_any_system_call_loses_nothing_that_was_answered(
    tmp_path: Path, fault: str
) -> None:
    (tmp_path / "first").mkdir()
    assert _run(tmp_path / "first" / "state.db", "kept")[0] == 1
    counts = []
    for number in range(1, 100):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "first", folder)
        path, inject = folder / "state.db", f"inject={_CALLS}:{fault}:when={number}"
        answered, trace = await asyncio.to_thread(_run, path, "a", "-e", inject)
        seen = await _look(path)
        assert seen.pop("kept") is Desired.RUNNING
        assert seen.get("a") in _STATES[answered : answered + 2], trace
        if "INJECTED" not in trace and "SIGKILL" not in trace:
            break
        counts.append(answered)
    assert answered == 3, "the last run met no fault"
    assert {0, 1, 2} <= set(counts), "faults hit every step"


def test_disk_has_it_before_the_answer(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    assert _run(path, "kept")[0] == 1
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fdatasync,fsync,write"]
    subprocess.run([*command, sys.executable, "-c", _STEPS, str(path), "a"], timeout=60,
                   check=True, capture_output=True)  # fmt: skip
    synced = 0
    answers = 0
    for line in trace.read_text().splitlines():
        synced += "sync(" in line and "state.db-wal" in line
        if "answered" in line:
            answers += 1
            assert synced, f"answer {answers} came before its sync"
            synced = 0
    assert answers == 3
