"""Puts the committed figures into the pages that quote them, as tables and charts.

The command is ``python -m benchmarks.pages``.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import doors, growth, marks, opcodes, report
from benchmarks.overhead import BACKENDS, committed
from benchmarks.results import ELSEWHERE, FILE, OF_DOORS, TWO_WORKERS, WHERE, WITH_TLS, Results
from tei_manager.bench.report import Cells, chart, described, markdown, medians, table
from tei_manager.bench.results import Overheads

ROOT = Path(__file__).parents[1]
README, PERFORMANCE = ROOT / "README.md", ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "charts"


def pages() -> dict[Path, str]:
    """Return every page and chart that has committed figures in it, as it should be."""
    overheads = {backend: Overheads.read(committed(backend)) for backend in BACKENDS}
    growing = Results.read(growth.FILE)
    charts = {f"overhead-{name}": chart(of) for name, of in overheads.items()}
    charts |= {f"growth-{axis}": growth.chart(growing, axis) for axis in growth.TITLES}
    return {
        README: _readme(overheads["stub"]),
        PERFORMANCE: _performance(overheads, growing),
        **{CHARTS / f"{name}.svg": text for name, text in charts.items()},
    }


def _readme(overheads: Overheads) -> str:
    text = markdown(medians(table(overheads)))
    return marks.filled(README.read_text("utf-8"), "overhead", text)


def _performance(overheads: dict[str, Overheads], growing: Results) -> str:
    page = report.updated(PERFORMANCE.read_text("utf-8"), Results.read(FILE))
    paths = (ELSEWHERE, TWO_WORKERS, WHERE, WITH_TLS, OF_DOORS)
    elsewhere, two, parts, tls, ways = (Results.read(path) for path in paths)
    _, counts = next(iter(opcodes.committed().items()))
    texts = {
        "elsewhere": _described(report.figures(elsewhere), elsewhere.about),
        "workers-2": _described(report.figures(two), two.about),
        "tls": _described(report.figures(tls), tls.about),
        "doors": _described(doors.table(ways), ways.about),
        "where": _described(report.where(parts), parts.about),
        "bytecodes": markdown(opcodes.by_file(counts)),
        "growth": described(growing.about),
        **{f"overhead-{name}": _described(table(of), of.about) for name, of in overheads.items()},
    }
    for name, text in texts.items():
        page = marks.filled(page, name, text)
    return page


def _described(cells: Cells, about: dict[str, str]) -> str:
    return f"{markdown(cells)}\n{described(about)}"


def main() -> None:
    """Write them all."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
