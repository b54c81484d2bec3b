"""What an earlier manager started and could not write down is ended, and nothing else."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from control_plane import alive, running

from tei_manager.manager.strays import mark

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif(sys.platform != "linux", reason="environments are read from /proc"),
]


@contextlib.contextmanager
def program(folder: Path, group: int | None = 0) -> Iterator[subprocess.Popen[bytes]]:
    """A program that a manager of a folder started; group 0 is one of its own."""
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, env=mark(folder), process_group=group
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it runs, with the environment that it was given
        try:
            yield process
        finally:
            process.kill()


async def test_what_no_record_has_is_ended_at_the_start(tmp_path: Path) -> None:
    ours, link, others = tmp_path / "s", tmp_path / "link", tmp_path / "other"
    ours.mkdir()
    link.symlink_to(ours)
    with program(ours) as first, program(link) as second, program(others) as foreign:
        async with running(tmp_path):
            assert first.wait(5) < 0
            assert second.wait(5) < 0
            assert alive(foreign.pid)


async def test_an_instance_says_whose_it_is_and_is_kept_with_its_record(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        pid = (await rig.create("a"))["pid"]
        assert mark(tmp_path / "s").items() <= psutil.Process(pid).environ().items()
        await rig.manager.stop(leave=True)
    async with running(tmp_path) as rig:
        assert (await rig.until("a", "running"))["pid"] == pid
