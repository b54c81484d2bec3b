"""Programs of an earlier manager that its state file does not know, found and ended at the start.

A manager that is killed between the start of a program and its entry in the state file, or while
the disk is full, leaves a program that no record leads to. So each gets the folder of the state
file, which one manager at a time can lock, in its environment, where the next manager looks for it.

Known flaw
    On Linux only: elsewhere the environment of another process cannot be read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from tei_manager.manager.instance import Record
from tei_manager.manager.process import GroupProcess, birth_of

log = logging.getLogger(__name__)

_NAME = "TEI_MANAGER_STATE_FOLDER"


def mark(folder: Path) -> dict[str, str]:
    """Return what a program's environment says of the manager that starts it.

    Args:
        folder: Of the state file.
    """
    return {_NAME: str(folder.resolve())}


async def end_strays(folder: Path, records: Iterable[Record]) -> None:
    """Kill every program that a manager of this folder started and that no record has.

    Args:
        folder: Of the state file, which this manager has locked.
        records: All of the state file.
    """
    runs = [record.runtime for record in records if record.runtime is not None]
    known = {run.pid for run in runs if birth_of(run.pid) == run.birth}
    for pid in await asyncio.to_thread(lambda: list(_marked(mark(folder)[_NAME]))):
        if pid not in known and (process := GroupProcess.find(pid)) is not None:
            log.warning("Killing process %d, which the last manager could not write down", pid)
            await process.end(0)


def _marked(folder: str, processes: Path = Path("/proc")) -> Iterator[int]:
    """Yield the leaders of groups whose environment names a folder; the others go with them."""
    wanted = f"{_NAME}={folder}".encode()
    for entry in processes.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            variables = (entry / "environ").read_bytes().split(b"\0")
            if wanted in variables and os.getpgid(int(entry.name)) == int(entry.name):
                yield int(entry.name)
