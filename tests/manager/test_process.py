"""Processes: their group ends with them, and the next manager finds them again."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from control_plane import alive, survivors

from tei_manager.errors import LaunchFailed
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.process import GroupProcess, Runtime

SLEEP = "import signal; signal.pause()"


async def _start(tmp_path: Path, code: str) -> tuple[GroupProcess, LogFile]:
    log = LogFile(tmp_path / "log")
    return GroupProcess.start([sys.executable, "-c", code], dict(os.environ), log), log


@pytest.mark.asyncio
async def test_end_of_a_process_is_told_in_words(tmp_path: Path) -> None:
    process, log = await _start(tmp_path, "print('hello'); raise SystemExit(3)")
    assert await process.wait() == "exited with code 3"
    assert log.read().lines == ["hello"]
    process, _ = await _start(tmp_path, "import os; os.kill(os.getpid(), 9)")
    assert await process.wait() == "was ended by SIGKILL"
    await process.end(1)


@pytest.mark.asyncio
async def test_process_is_its_own_session_without_our_files_and_terminal(tmp_path: Path) -> None:
    code = "import os; print(os.getsid(0) == os.getpid(), os.read(0, 1), os.listdir('/dev/fd'))"
    process, log = await _start(tmp_path, code)
    await process.wait()
    (line,) = log.read().lines
    assert line.startswith("True b''")
    assert len(re.findall(r"'\d+'", line)) <= 4, "stdin, stdout, stderr and the folder itself"


@pytest.mark.asyncio
async def test_cancelled_end_leaves_nobody_behind(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "deaf")
    code = (
        "import signal; signal.signal(15, signal.SIG_IGN);"
        f"open({str(tmp_path / 'deaf')!r}, 'w').close(); signal.pause()"
    )
    process, _ = await _start(tmp_path, code)
    await asyncio.to_thread((tmp_path / "deaf").read_text)  # returns when it ignores SIGTERM
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.end(60), 0.1)
    assert await process.wait() == "was ended by SIGKILL"
    assert survivors(process.pid) == []
    assert not alive(process.pid)


@pytest.mark.asyncio
async def test_program_that_is_not_there_is_an_error_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match="no-such-program"):
        GroupProcess.start(["/no-such-program"], {}, LogFile(tmp_path / "log"))


@pytest.mark.asyncio
async def test_children_end_with_their_leader_without_anybody_asking(tmp_path: Path) -> None:
    code = f"import os, subprocess, sys; subprocess.Popen([sys.executable, '-c', {SLEEP!r}])"
    process, _ = await _start(tmp_path, code)
    assert await process.wait() == "exited with code 0"
    assert survivors(process.pid) == []


@pytest.mark.asyncio
async def test_process_of_an_earlier_manager_is_found_watched_and_ended(tmp_path: Path) -> None:
    process, _ = await _start(tmp_path, SLEEP)
    runtime = process.runtime("tei")
    adopted = GroupProcess.adopt(runtime)
    assert adopted is not None
    assert adopted.started_at == process.started_at
    await adopted.end(10)
    assert "unknown" in await adopted.wait()
    assert await process.wait() == "was ended by SIGTERM"
    assert GroupProcess.adopt(runtime) is None


@pytest.mark.asyncio
async def test_other_process_with_the_same_number_is_not_taken_for_it(tmp_path: Path) -> None:
    process, _ = await _start(tmp_path, SLEEP)
    runtime = process.runtime("tei")
    assert GroupProcess.adopt(None) is None
    assert GroupProcess.adopt(replace(runtime, birth="another")) is None
    assert GroupProcess.adopt(replace(runtime, birth="")) is None
    assert GroupProcess.adopt(Runtime(2**22 + 1, runtime.birth, runtime.started_at, "tei")) is None
    await process.end(0)


@pytest.mark.asyncio
async def test_program_that_cannot_be_watched_is_not_left_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched: list[int] = []

    def no_more_descriptors(pid: int) -> int:
        watched.append(pid)
        raise OSError("too many open files")

    monkeypatch.setattr("tei_manager.manager.process._exit_descriptor", no_more_descriptors)
    with pytest.raises(LaunchFailed, match="too many open files"):
        await _start(tmp_path, SLEEP)
    assert not alive(watched[0])
