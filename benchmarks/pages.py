"""Puts the committed figures into the pages that quote them, as tables and charts.

python -m benchmarks.pages
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import marks, report
from benchmarks.overhead import BACKENDS, committed
from benchmarks.results import FILE, TWO_WORKERS, Results
from tei_manager.bench.report import chart, described, markdown, medians, table
from tei_manager.bench.results import Overheads

ROOT = Path(__file__).parents[1]
README, PERFORMANCE = ROOT / "README.md", ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "charts"


def pages() -> dict[Path, str]:
    """Return every page and chart that has committed figures in it, as it should be."""
    overheads = {backend: Overheads.read(committed(backend)) for backend in BACKENDS}
    return {
        README: _readme(overheads["stub"]),
        PERFORMANCE: _performance(overheads),
        **{CHARTS / f"overhead-{name}.svg": chart(of) for name, of in overheads.items()},
    }


def _readme(overheads: Overheads) -> str:
    text = markdown(medians(table(overheads)))
    return marks.filled(README.read_text("utf-8"), "overhead", text)


def _performance(overheads: dict[str, Overheads]) -> str:
    page = report.updated(PERFORMANCE.read_text("utf-8"), Results.read(FILE))
    two = Results.read(TWO_WORKERS)
    text = f"{markdown(report.figures(two))}\n{described(two.about)}"
    page = marks.filled(page, "workers-2", text)
    for name, results in overheads.items():
        text = f"{markdown(table(results))}\n{described(results.about)}"
        page = marks.filled(page, f"overhead-{name}", text)
    return page


def main() -> None:
    """Write them all."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
