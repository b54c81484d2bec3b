"""The flags that a router knows, as its own ``--help`` tells; each program is asked once.

A router ends at the first flag that it does not know; `launcher.understood` passes it none.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import tempfile
from pathlib import Path

from tei_manager.manager.launcher import Program, inherited
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.process import GroupProcess

log = logging.getLogger(__name__)

# Printing its help takes a router milliseconds; a machine under load gets some patience.
_HELP_LIMIT = 10.0

# The help of router 1.9.3 has less than 16 KB.
_HELP_BYTES = 256 * 1024

_FLAG = re.compile(r"(?<![\w-])--[a-z0-9][a-z0-9-]*")


class KnownFlags:
    """What every router that was ever asked knows.

    Cancellation:
        Whoever waits for an answer may be cancelled; the program that was asked is killed.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], frozenset[str]] = {}
        self._asking = asyncio.Lock()

    async def of(self, program: Program) -> frozenset[str]:
        """Return the flags that a program knows; empty if it does not tell.

        An exchanged file is another program. The built-in engine knows every flag of the router
        and is not asked.
        """
        if program.kind != "tei":
            return frozenset()
        key = _identity(program.command[0])
        async with self._asking:
            if key not in self._known:
                self._known[key] = await _ask(program)
            return self._known[key]


def _identity(file: str) -> tuple[str, int, int]:
    found = Path(file).stat()
    return file, found.st_mtime_ns, found.st_ino


async def _ask(program: Program) -> frozenset[str]:
    flags = frozenset(_FLAG.findall(await _help(program)))
    if "--model-id" in flags:
        return flags
    log.warning("'%s --help' does not list a router's flags; all are passed", program.command[0])
    return frozenset()


async def _help(program: Program) -> str:
    """Return what a program prints for ``--help``, empty if it does not end in time."""
    with tempfile.TemporaryDirectory(prefix="tei-manager-") as folder:
        output = LogFile(Path(folder) / "help")
        command = [*program.command, "--help"]
        process = GroupProcess.start(command, inherited(os.environ), output)
        try:
            async with asyncio.timeout(_HELP_LIMIT):
                await process.wait()
        except TimeoutError:
            return ""
        finally:
            await process.end(0)
        with output.path.open("rb") as file:
            return file.read(_HELP_BYTES).decode("utf-8", "replace")
