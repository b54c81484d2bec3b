"""Charts are XML, show what they are given where it belongs, and are the same each time."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.bench.svg import BAR, LEFT, RIGHT, WIDTH, Bar, bars, lines

SVG = "{http://www.w3.org/2000/svg}"
VALUES = st.floats(0.01, 1e6)


def widths(chart: str) -> list[float]:
    root = ElementTree.fromstring(chart)
    drawn = [each for each in root.iter(f"{SVG}rect") if each.get("height") == str(BAR)]
    return [float(each.get("width") or "") for each in drawn]


def polylines(chart: str) -> list[list[tuple[float, float]]]:
    root = ElementTree.fromstring(chart)
    found = [each.get("points") or "" for each in root.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in re.findall(r"(\S+),(\S+)", text)] for text in found]


@given(st.lists(VALUES, min_size=1, max_size=8))
def test_bars_are_as_long_as_their_values_and_stay_inside(values: list[float]) -> None:
    rows = {f"row {n}": {"<ours>": Bar(v, v, v)} for n, v in enumerate(values)}
    found = widths(bars("A & B", "µs", rows))
    assert max(found) == pytest.approx(WIDTH - LEFT - RIGHT, abs=0.1)
    scale = (WIDTH - LEFT - RIGHT) / max(values)
    assert found == pytest.approx([value * scale for value in values], abs=0.1)


def test_an_interval_is_a_line_from_its_low_to_its_high_end() -> None:
    legend, interval = polylines(bars("t", "µs", {"row": {"ours": Bar(50, 25, 100)}}))
    length = WIDTH - LEFT - RIGHT
    assert max(x for x, _ in legend) < WIDTH
    assert [x for x, _ in interval] == pytest.approx([LEFT + length / 4, LEFT + length])


def test_a_figure_below_nothing_has_no_bar_and_says_what_it_is() -> None:
    chart = bars("t", "µs", {"row": {"ours": Bar(-5, -9, 1), "other": Bar(10, 10, 10)}})
    assert widths(chart)[0] == 0
    assert ">-5 µs<" in chart


@pytest.mark.parametrize("logarithmic", [(False, False), (True, True)])
@given(points=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=20))
def test_lines_stay_within_their_axes_and_keep_the_order_of_values(
    logarithmic: tuple[bool, bool], points: list[tuple[float, float]]
) -> None:
    drawn = polylines(lines("t", ("x", "y"), {"ours": points}, logarithmic))[-1]
    assert len(drawn) == len(points)
    for (x, y), (left, top) in zip(points, drawn, strict=True):
        assert LEFT - 0.2 <= left <= WIDTH - RIGHT + 0.2
        assert 77 <= top <= 307
        assert all(
            left <= other + 0.1 for (a, _), (other, _) in zip(points, drawn, strict=True) if x <= a
        )
        assert all(
            top >= other - 0.1 for (_, b), (_, other) in zip(points, drawn, strict=True) if y <= b
        )


def test_a_chart_without_intervals_has_none_in_its_legend() -> None:
    assert "interval of" not in bars("t", "µs", {"row": {"ours": Bar(5, 5, 5)}})


def test_the_unit_stands_apart_from_the_highest_mark() -> None:
    chart = ElementTree.fromstring(lines("t", ("x", "ms"), {"ours": [(0, 0), (1, 100)]}))
    at = {each.text: float(each.get("y") or "") for each in chart.iter(f"{SVG}text")}
    assert at["100"] - at["ms"] >= 16


def test_everything_that_is_drawn_is_seen_on_dark_paper_too() -> None:
    chart = lines("t", ("x", "y"), {"ours": [(0, 0), (1, 1)]})
    dark = chart.partition("prefers-color-scheme:dark")[2].partition("</style>")[0]
    assert all(part in dark for part in ("text{", ".paper{", ".interval{", ".grid{"))
    assert 'fill="#fff"' not in chart


def test_the_same_figures_give_the_same_octets() -> None:
    series = {"a": [(1.0, 2.0), (10.0, 20.0)], "b": [(1.0, 3.0)]}
    assert lines("t", ("x", "y"), series) == lines("t", ("x", "y"), series)
