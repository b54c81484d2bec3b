"""Tables of a run: for the terminal, and for docs/performance.md.

    python -m benchmarks.report

writes the committed run's tables, and the run's description, into that page.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.points import MEMORY, OURS, ROWS, Goal, Row
from benchmarks.results import Results, read

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"

END = "<!-- end -->"

Cells = list[list[str]]
"""Rows of a table, its heading first; the first column is text, the others are figures."""


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


def markdown(cells: Cells) -> str:
    """Return a table as a page has it; our own column is bold."""
    heading, *rows = cells
    heading = [f"**{cell}**" if cell == OURS else cell for cell in heading]
    lines = [heading, ["---"] + ["--:"] * (len(heading) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def about(results: Results) -> str:
    """Return the lines that say what was run, and on what."""
    return "".join(f"- {name}: {value}\n" for name, value in results.about.items())


def updated(page: str, results: Results) -> str:
    """Return the page with the run's tables between their marks, ``<!-- NAME -->`` and `END`.

    Raises:
        ValueError: The page has no place for one of them.
    """
    parts = {name: markdown(make(results)) for name, make in TABLES.items()}
    for name, text in {**parts, "about": about(results)}.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition(END)
        if not end:
            raise ValueError(f"the page has no place for {name}")
        page = f"{before}{mark}\n{text}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text("utf-8"), read()), "utf-8")
