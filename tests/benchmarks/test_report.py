"""Tables say what was measured, and a page keeps what stands around them."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from benchmarks.marks import END
from benchmarks.points import ROWS, Goal
from benchmarks.report import TABLES, figures, goals, show, updated
from benchmarks.results import Results
from tei_manager.bench.report import markdown
from tei_manager.bench.results import OURS

PAGE = "before\n" + "".join(f"<!-- {name} -->\n{END}\nthen\n" for name in (*TABLES, "about"))


def results(*peers: str, ours: float = 1.0) -> Results:
    """Return results of all rows: every peer has twice 1.0, whatever is measured."""
    made = Results({"command": "python -m benchmarks"})
    for point in {row.point for row in ROWS}:
        names = {row.field for row in ROWS if row.point == point} | {"per_second"}
        for proxy, value in {"direct": 0.0, OURS: ours, **dict.fromkeys(peers, 2.0)}.items():
            made.add(point, proxy, dict.fromkeys(names, value))
    return made


def test_every_row_has_a_figure_of_each_proxy_and_a_ratio_to_each_peer() -> None:
    heading, *rows = figures(results("envoy", "nginx"))
    assert heading == ["", OURS, "envoy", "nginx", "ours / envoy", "ours / nginx"]
    assert [row[0] for row in rows] == [row.title for row in ROWS]
    assert all(row[1:] == ["1.00", "2.00", "2.00", *["0.50 (0.50-0.50)"] * 2] for row in rows)


def test_a_goal_that_is_missed_is_called_so() -> None:
    verdicts = {row[0]: row[2] for row in goals(results("envoy", "nginx", ours=3.0))[1:]}
    for row in (row for row in ROWS if row.goals):
        met = row.more or (row.goals[0].limit > 3.0 and not row.goals[0].peer)
        assert verdicts[row.title] == ("met" if met else "missed"), row.title


def test_a_peer_that_was_not_there_meets_no_goal() -> None:
    row = goals(results("envoy"))[1]
    assert ROWS[0].goals[1] == Goal(1.1, "nginx")
    assert row[-2:] == ["≤ 1.10 x nginx", "not measured"]


def test_a_page_gets_all_tables_and_keeps_the_rest() -> None:
    page = updated(PAGE, results("envoy", "nginx"))
    for make in TABLES.values():
        assert markdown(make(results("envoy", "nginx"))) in page
    assert page.startswith("before\n")
    assert page.count("then\n") == PAGE.count("then\n")


def test_a_page_that_is_up_to_date_stays_as_it_is() -> None:
    page = updated(PAGE, results("envoy", "nginx"))
    assert updated(page, results("envoy", "nginx")) == page
    assert updated(page, results("envoy", "nginx", ours=3.0)) != page


@pytest.mark.parametrize("name", [*TABLES, "about"])
def test_a_page_without_a_place_for_a_table_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"no place for {name}"):
        updated(PAGE.replace(f"<!-- {name} -->", ""), results("envoy", "nginx"))


def test_the_terminal_shows_every_row() -> None:
    console = Console(file=io.StringIO(), width=200)
    show(results("envoy", "nginx"), console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert all(row.title in shown for row in ROWS)
