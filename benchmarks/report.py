"""Tables of a run: for the terminal, and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import marks
from benchmarks.points import MEMORY, ROWS, Goal, Row
from benchmarks.results import Results
from tei_manager.bench.intervals import Interval
from tei_manager.bench.report import Cells, described, markdown, medians

COMPARED = ("envoy", "haproxy", "nginx")
"""The proxies that ours is held against; the others are a floor, and what gRPC's library gives."""


def figures(results: Results) -> Cells:
    """Return the medians of every row, and our ratios to those compared, with their intervals."""
    proxies = results.proxies()
    peers = [name for name in proxies if name in COMPARED]
    cells = [["", *proxies, *(f"ours / {peer}" for peer in peers)]]
    for row in _measured(results):
        medians = [_figure(results, row, name) for name in proxies]
        cells.append([row.title, *medians, *(_ratio(results, row, peer) for peer in peers)])
    return cells


def _figure(results: Results, row: Row, proxy: str) -> str:
    """Return a median, or "-" of a proxy that the point leaves out."""
    return number(results.figure(row, proxy)) if proxy in results.rounds[row.point] else "-"


def _measured(results: Results) -> list[Row]:
    return [row for row in ROWS if row.point in results.rounds]


def number(value: float) -> str:
    """Return a figure with the digits that mean something."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(results: Results, row: Row, peer: str) -> str:
    return multiple(results.ratio(row, peer))


def multiple(ratio: Interval) -> str:
    """Return a ratio as a cell, its interval in parentheses."""
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def goals(results: Results) -> Cells:
    """Return every row's goals, and whether our medians meet them; not sure within intervals."""
    cells = [["", "first goal", "", "then", ""]]
    for row in _measured(results):
        if not row.goals:
            continue
        cells.append([row.title])
        for goal in row.goals:
            cells[-1] += [_goal(row, goal), _verdict(results, row, goal)]
    return cells


def _goal(row: Row, goal: Goal) -> str:
    sign = "≥" if row.more else "≤"
    return f"{sign} {goal.limit:.2f} x {goal.peer}" if goal.peer else f"{sign} {goal.limit:g} MB"


def _verdict(results: Results, row: Row, goal: Goal) -> str:
    if goal.peer and goal.peer not in results.proxies():
        return "not measured"
    verdict = "met" if results.meets(row, goal) else "missed"
    return verdict if results.certain(row, goal) else f"{verdict}, not sure"


def speeds(results: Results) -> Cells:
    """Return calls, or messages, a second: what the pair of cores made, which nothing judges."""
    proxies = results.proxies()
    cells = [["", *proxies]]
    for point in results.rounds:
        if point != MEMORY:
            row = Row(point, point, "per_second")
            cells.append([point, *(_figure(results, row, name) for name in proxies)])
    return cells


def where(results: Results) -> Cells:
    """Return what the kernel and the program itself have of the CPU of a call, in µs."""
    proxies = results.proxies()
    cells = [["kernel + own", *proxies]]
    for point, of_point in results.rounds.items():
        cells.append([point, *(_parts(of_point[name]) for name in proxies)])
    return cells


def _parts(values: dict[str, list[float]]) -> str:
    rounds = zip(values["cpu_us"], values["kernel_us"], strict=True)
    own = median(whole - kernel for whole, kernel in rounds)
    return f"{number(median(values['kernel_us']))} + {number(own)}"


TIMES = ("fastest_us", "p50_us", "p99_us", "p999_us")
"""Ranks of the times that calls of a point took."""


def times(results: Results) -> Cells:
    """Return the fastest call, p50, p99 and p99.9 of each point, in µs, as one cell."""
    proxies = results.proxies()
    cells = [["fastest / p50 / p99 / p99.9", *proxies]]
    for point, of_point in results.rounds.items():
        if point != MEMORY:
            cells.append([point, *(_times(of_point.get(name, {})) for name in proxies)])
    return cells


def _times(values: dict[str, list[float]]) -> str:
    """Return the medians of a point's ranks; a run from before has no p99.9."""
    return " / ".join(number(median(values[at])) for at in TIMES if at in values) or "-"


TABLES: dict[str, Callable[[Results], Cells]] = {
    "figures": figures,
    "goals": goals,
    "speeds": speeds,
    "times": times,
}


def show(results: Results, console: Console) -> None:
    """Print all tables."""
    for name, make in TABLES.items():
        console.print(on_terminal(name, make(results)))


def on_terminal(title: str, cells: Cells) -> Table:
    """Return a table for a terminal, which has no room for intervals."""
    heading, *rows = cells
    table = Table(title=title, box=box.SIMPLE_HEAD)
    for place, column in enumerate(heading):
        table.add_column(column, justify="right" if place else "left", no_wrap=not place)
    for row in medians(rows):
        table.add_row(*row)
    return table


def updated(page: str, results: Results) -> str:
    """Return the page with the run's tables, and its description, between their marks."""
    parts = {name: markdown(make(results)) for name, make in TABLES.items()}
    for name, text in {**parts, "about": described(results.about)}.items():
        page = marks.filled(page, name, text)
    return page
