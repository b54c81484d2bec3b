"""How commands look on a terminal: colours of states, durations, sizes, waiting."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

_COLOURS = {
    "running": "green",
    "starting": "cyan",
    "stopping": "cyan",
    "unhealthy": "yellow",
    "failed": "red",
    "stopped": "dim",
    "verified": "green",
    "downloaded": "green",
    "downloading": "cyan",
    "loading": "cyan",
    "partial": "yellow",
    "available": "dim",
}

# Into a pipe nothing is wrapped or cut: programs read lines.
_WIDE = 4096


@functools.cache
def _console(terminal: bool) -> Console:
    from rich.console import Console

    return Console(width=None if terminal else _WIDE, soft_wrap=not terminal)


def console() -> Console:
    """Return the console of standard output."""
    return _console(sys.stdout.isatty())


def state(name: str) -> Text:
    """Return an instance's status in its colour."""
    from rich.text import Text

    return Text(name, style=_COLOURS.get(name, ""))


def print_all(row: Mapping[str, Any]) -> None:
    """Print a row of the API, a line for each key."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for key, value in row.items():
        plain = Text("-" if value in (None, "", []) else str(value))
        grid.add_row(key, state(value) if key == "status" else plain)
    console().print(grid)


def cut(text: str) -> Text:
    """Return a cell of a table that gives up its end where the terminal is too narrow for all."""
    from rich.text import Text

    return Text(text, no_wrap=True, overflow="ellipsis")


def duration(seconds: float | None) -> str:
    """Return seconds as people read them: ``2d03h``, ``3h07m``, ``4m05s``; ``-`` for none."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def octets(count: float | None) -> str:
    """Return a size as people read it: ``12 MiB``; ``-`` for none."""
    if count is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def milliseconds(seconds: float | None) -> str:
    """Return a time as people read it: ``1.25 ms``; ``-`` for none."""
    return "-" if seconds is None else f"{seconds * 1000:.3g} ms"
