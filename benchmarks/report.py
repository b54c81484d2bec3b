"""Tables of a run: for the terminal, and for docs/performance.md."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from benchmarks import marks
from benchmarks.points import MEMORY, ROWS, Goal, Row
from benchmarks.results import Results
from tei_manager.bench.report import Cells, described, markdown
from tei_manager.bench.results import OURS


def figures(results: Results) -> Cells:
    """Return the medians of every row, and our ratios to every peer with their intervals."""
    proxies = results.proxies()
    peers = [name for name in proxies if name != OURS]
    cells = [["", *proxies, *(f"ours / {peer}" for peer in peers)]]
    for row in _measured(results):
        medians = [_number(results.figure(row, name)) for name in proxies]
        cells.append([row.title, *medians, *(_ratio(results, row, peer) for peer in peers)])
    return cells


def _measured(results: Results) -> list[Row]:
    return [row for row in ROWS if row.point in results.rounds]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _ratio(results: Results, row: Row, peer: str) -> str:
    ratio = results.ratio(row, peer)
    return f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})"


def goals(results: Results) -> Cells:
    """Return every row's goals, and whether our medians meet them; not sure within intervals."""
    cells = [["", "first goal", "", "then", ""]]
    for row in _measured(results):
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
            row = Row(point, point, "per_second", (Goal(0), Goal(0)))
            cells.append([point, *(_number(results.figure(row, name)) for name in proxies)])
    return cells


TABLES: dict[str, Callable[[Results], Cells]] = {
    "figures": figures,
    "goals": goals,
    "speeds": speeds,
}


def show(results: Results, console: Console) -> None:
    """Print all tables."""
    for name, make in TABLES.items():
        heading, *rows = make(results)
        table = Table(title=name)
        for number, column in enumerate(heading):
            table.add_column(column, justify="right" if number else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)


def updated(page: str, results: Results) -> str:
    """Return the page with the run's tables, and its description, between their marks."""
    parts = {name: markdown(make(results)) for name, make in TABLES.items()}
    for name, text in {**parts, "about": described(results.about)}.items():
        page = marks.filled(page, name, text)
    return page
