"""Mixed calls for an hour while instances are killed, stopped, frozen and replaced underneath.

    python -m benchmarks.soak [--seconds 3600] [--json FILE] [--html FILE]

The load is that of the tests (`tests/fakes/soak.py`): every call must end with the one status, and
the very octets, that it must end with; while its instance is away UNAVAILABLE is right as well.
Memory and file descriptors of the worker are read once a second. Exit code 1 says that an answer
was wrong, or that something leaked.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.fakes import FAKES
from tei_manager.bench.about import about
from tei_manager.bench.report import Cells, html_page
from tei_manager.bench.svg import lines

if not TYPE_CHECKING:
    sys.path.append(FAKES)

from soak_faults import PAUSE_SECONDS

from soak import Figures, soak

SECONDS = 3600.0
MOST_MIB_A_MINUTE = 2.0 / 60
"""By which the worker may grow."""

POINTS = 300
"""Of each line that is kept, at most."""


def main() -> int:
    """Run, show, and write what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--pause", type=float, default=PAUSE_SECONDS, help="between two faults, s")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--html", type=Path, metavar="FILE")
    flags = parser.parse_args()
    figures = asyncio.run(_run(flags.seconds, flags.pause))
    found = summary(figures, flags.seconds, flags.pause)
    for name, value in cells(found):
        print(f"{name:40} {value}")
    if flags.json:
        flags.json.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if flags.html:
        flags.html.write_text(page(found), "utf-8")
    return 1 if found["complaints"] else 0


async def _run(seconds: float, pause: float) -> Figures:
    async with soak() as load:
        return await load.run(seconds, kills=True, pause=pause)


def summary(figures: Figures, seconds: float, pause: float) -> dict[str, Any]:
    """Return all that a soak found, as JSON has it."""
    return {
        "about": about(f"python -m benchmarks.soak --seconds {seconds:g} --pause {pause:g}"),
        "calls": dict(figures.calls),
        "faults": dict(figures.faults),
        "failed while away": dict(figures.causes.most_common()),
        "wrong": len(figures.wrong),
        "descriptors before and after": figures.fds,
        "MiB a minute": round(figures.settled_slope(seconds), 4),
        "complaints": figures.complaints(seconds, MOST_MIB_A_MINUTE),
        "memory": _thinned(figures.memory),
        "descriptors": _thinned(figures.descriptors),
    }


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // POINTS) or 1
    return [(round(seconds, 1), round(value, 2)) for seconds, value in points[::step]]


def cells(found: dict[str, Any]) -> Cells:
    """Return a line for each thing that was counted."""
    made = [["calls made", f"{sum(found['calls'].values()):,}"]]
    for part in ("calls", "faults", "failed while away"):
        made += [[f"{part}: {name}", f"{number:,}"] for name, number in found[part].items()]
    made += [[name, str(found[name])] for name in ("wrong", "MiB a minute")]
    made.append(["file descriptors", " before, ".join(map(str, found[_DESCRIPTORS])) + " after"])
    made.append(["verdict", "; ".join(found["complaints"]) or "nothing lost, nothing leaked"])
    return made


_DESCRIPTORS = "descriptors before and after"


def page(found: dict[str, Any]) -> str:
    """Return a report in HTML that needs nothing from elsewhere."""
    axes = ("seconds", "MiB"), ("seconds", "number")
    charts = [
        lines("Memory of the worker", axes[0], {"resident": found["memory"]}),
        lines("File descriptors of the worker", axes[1], {"open": found["descriptors"]}),
    ]
    note = "Calls failed while their instance was away by its fault and their status."
    return html_page("Soak", [["", "count"], *cells(found)], charts, note, found["about"])


if __name__ == "__main__":
    sys.exit(main())
