"""A run's results for people: a table on the terminal, in Markdown, and a page with charts."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from tei_manager.bench.cases import cases
from tei_manager.bench.intervals import Interval
from tei_manager.bench.results import DIRECT, OURS, Overheads
from tei_manager.bench.svg import Bar, bars

if TYPE_CHECKING:
    from rich.table import Table

Cells = list[list[str]]
"""Rows of a table, its heading first; the first column is text, the others are figures."""

PUBLISHED = "Rust original, as published, on another machine"

NOTE = (
    "Times in µs, medians; in parentheses the interval that has the true median in it with 97.9 %. "
    "Under a proxy's name is what it adds: the median of differences to direct calls made just "
    "before or after. The Rust original's figures are those it published: of another machine, with "
    "a new connection in every call."
)


def table(results: Overheads) -> Cells:
    """Return a row for each case: times, what each proxy added, and what was published."""
    peers = [name for name in results.proxies() if name != OURS]
    columns = [column for peer in peers for column in (peer, f"ours / {peer}")]
    cells = [["", "direct", "through", OURS, "%", *columns, "Rust original", "%"]]
    for case in cases():
        if case.name in results.rounds:
            cells.append([case.name, *_own(results, case.name), *_peers(results, case.name, peers)])
            cells[-1] += [
                _number(case.published.overhead),
                _percent(case.published.overhead, case.published.direct),
            ]
    return cells


def _own(results: Overheads, case: str) -> list[str]:
    direct, through = results.took(case, DIRECT).median, results.took(case, OURS).median
    added = results.overhead(case, OURS)
    return [_number(direct), _number(through), _figure(added), _percent(added.median, direct)]


def _peers(results: Overheads, case: str, peers: list[str]) -> list[str]:
    cells = []
    for peer in peers:
        ratio = results.ratio(case, peer)
        cells.append(_figure(results.overhead(case, peer)))
        cells.append(f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})")
    return cells


def _figure(found: Interval) -> str:
    return f"{_number(found.median)} ({_number(found.low)}-{_number(found.high)})"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}"


def rich_table(results: Overheads) -> Table:
    """Return the table for a terminal of 80 columns: medians alone."""
    from rich import box
    from rich.table import Table

    heading, *rows = table(results)
    made = Table(box=box.SIMPLE_HEAD, caption=NOTE)
    for number, column in enumerate(heading):
        made.add_column(column, justify="right" if number else "left", no_wrap=not number)
    for row in medians(rows):
        made.add_row(*row)
    return made


def medians(cells: Cells) -> Cells:
    """Return a table without the intervals in parentheses."""
    return [[cell.partition(" (")[0] for cell in row] for row in cells]


def markdown(cells: Cells) -> str:
    """Return a table as a page has it; our own column is bold."""
    heading, *rows = cells
    heading = [f"**{cell}**" if cell == OURS else cell for cell in heading]
    lines = [heading, ["---"] + ["--:"] * (len(heading) - 1), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def described(about: dict[str, str]) -> str:
    """Return the lines that say what was run, and on what."""
    return "".join(f"- {name}: {value}\n" for name, value in about.items())


def markdown_page(results: Overheads) -> str:
    """Return a whole report in Markdown."""
    return f"{markdown(table(results))}\n{NOTE}\n\n{described(results.about)}"


def chart(results: Overheads) -> str:
    """Return the overheads of all ways and the published ones as a chart."""
    rows = {}
    for case in cases():
        if case.name in results.rounds:
            added = {name: results.overhead(case.name, name) for name in results.proxies()}
            rows[case.name] = {n: Bar(i.median, i.low, i.high) for n, i in added.items()}
            published = case.published.overhead
            rows[case.name][PUBLISHED] = Bar(published, published, published)
    return bars("What a call takes more than a direct one", "µs", rows)


def page(results: Overheads) -> str:
    """Return a whole report in HTML that needs nothing from elsewhere."""
    return html_page(
        "Overhead of the multiplexer", table(results), [chart(results)], NOTE, results.about
    )


def html_page(title: str, cells: Cells, charts: list[str], note: str, about: dict[str, str]) -> str:
    """Return a page with charts, a table, and what was run.

    Args:
        title: Its heading.
        cells: The table.
        charts: SVG texts.
        note: What the figures mean.
        about: What was run, and on what.
    """
    heading, *rows = cells
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heading)
    body = "\n".join(f"<tr>{''.join(f'<td>{escape(c)}</td>' for c in row)}</tr>" for row in rows)
    facts = "".join(f"<li>{escape(key)}: {escape(value)}</li>" for key, value in about.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<style>{_STYLE}</style></head><body>
<h1>{escape(title)}</h1>
{"".join(charts)}
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
<p>{escape(note)}</p>
<ul>{facts}</ul>
</body></html>
"""


_STYLE = (
    ":root{color-scheme:light dark}@media(prefers-color-scheme:dark){body{background:#0d1117}}"
    "body{font:14px system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse}td,th{padding:.3em .7em;text-align:right;"
    "border-bottom:1px solid #8885}td:first-child{text-align:left}"
)
