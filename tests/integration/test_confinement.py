"""What the manager's programs may not do, as the system says it of each of them."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import psutil
import pytest
from fake_tei import fake_tei
from manager_process import Home

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform != "linux", reason="/proc has it on Linux alone"),
]


def _confinement(pid: int) -> tuple[str, str, list[str]]:
    """Return a process's umask, whether it may gain privileges, and its limits of core dumps."""
    folder = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    limits = (folder / "limits").read_text().splitlines()
    (core,) = (line.split()[4:6] for line in limits if line.startswith("Max core file size"))
    return status["Umask"].strip(), status["NoNewPrivs"].strip(), core


async def test_instances_and_workers_gain_nothing_and_leave_nothing_for_others(
    tmp_path: Path, homes: list[Home]
) -> None:
    async with fake_tei() as tei:
        homes.append(home := Home(tmp_path, tei.port))
        async with home.manager() as manager:
            await manager.all_run()
            instance = (await manager.instance("stub"))["pid"]
            for pid in (instance, *home.workers()):
                assert _confinement(pid) == ("0077", "1", ["0", "0"])
            assert _confinement(manager.process.pid)[1:] == ("1", ["0", "0"])
            names = {Path(file.path).name for file in psutil.Process(instance).open_files()}
            assert names <= {"stub.log"}, "none of the manager's files"
        for path in (tmp_path / "logs", *(tmp_path / "logs").iterdir()):
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
