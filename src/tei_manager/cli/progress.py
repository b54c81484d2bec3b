"""Waiting for an instance to settle, with a bar on a terminal that shows how far it is."""

from __future__ import annotations

import sys
import time
from typing import Any
from urllib.parse import quote

from tei_manager.cli.control import Control

_ON_ITS_WAY = ("starting", "stopping")

# Seconds between two looks on a terminal.
_STEP = 0.5


def path_of(name: str, verb: str = "") -> str:
    """Return the path of an instance, or of something that can be done with it."""
    return f"/instances/{quote(name, safe='')}{verb and '/' + verb}"


def settled(control: Control, row: dict[str, Any], wait: float, quiet: bool) -> dict[str, Any]:
    """Return an instance once it has settled, or as it is when the time is over.

    Args:
        control: The way to its manager.
        row: The instance as it was last seen.
        wait: Seconds; 0 waits for nothing.
        quiet: Draw nothing, whatever standard error is.
    """
    if not wait or not is_busy(row):
        return row
    if quiet or not sys.stderr.isatty():
        shown: dict[str, Any] = control.call("GET", path_of(row["name"]), wait=wait)
        return shown
    return _watched(control, row, wait)


def is_busy(row: dict[str, Any]) -> bool:
    """Return whether an instance is on its way from one state to another."""
    return row["status"] in _ON_ITS_WAY


def _watched(control: Control, row: dict[str, Any], wait: float) -> dict[str, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    begin = time.monotonic()
    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn(),
        TextColumn("of {task.total:g} s  [dim]{task.fields[said]}", markup=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(f"{row['name']}: {row['status']}", total=wait, said="")
        while is_busy(row) and (elapsed := time.monotonic() - begin) < wait:
            row = control.call("GET", path_of(row["name"]), wait=min(_STEP, wait - elapsed))
            description = f"{row['name']}: {row['status']}"
            said = _last_words(control, row["name"])
            progress.update(bar, description=description, completed=elapsed, said=said)
    return row


def _last_words(control: Control, name: str) -> str:
    """Return the last line of an instance's output, cut to what fits beside a bar."""
    from rich.markup import escape

    lines = control.call("GET", path_of(name, "logs"), start=-1)["lines"]
    plain = "".join(each if each.isprintable() else " " for each in (lines or [""])[0])
    return escape(plain[:40])
