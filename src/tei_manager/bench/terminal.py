"""A measurement on a terminal: a bar while it runs, then the table, and the files asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tei_manager.bench.cases import Case
from tei_manager.bench.measure import ROUNDS, measure
from tei_manager.bench.paths import Path as Way
from tei_manager.bench.report import markdown_page, page, rich_table
from tei_manager.bench.results import Overheads


def watched(
    results: Overheads, cases: Sequence[Case], ways: Sequence[Way], calls: int, label: str = ""
) -> None:
    """Do what `measure` does, with a bar on standard error.

    Args:
        results: Where figures are added.
        cases: What to send.
        ways: Over which ways.
        calls: Times that each round makes each case over each way.
        label: What stands before a case's name.
    """
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(cases) * ROUNDS)

        def tick(case: str) -> None:
            progress.update(task, advance=1, description=f"{label}{case}")

        measure(results, cases, ways, calls, tick)


def deliver(
    results: Overheads, json: Path | None, markdown: Path | None, html: Path | None
) -> None:
    """Print the table and what was run, and write the files that were asked for."""
    console = Console()
    console.print(rich_table(results))
    for name, value in results.about.items():
        console.print(f"{name}: {value}", style="dim", markup=False, highlight=False)
    if json:
        results.write(json)
    if markdown:
        markdown.write_text(markdown_page(results), "utf-8")
    if html:
        html.write_text(page(results), "utf-8")
