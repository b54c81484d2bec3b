"""Charts as SVG text: bars with their intervals, and lines.

Written by hand, not by a plotting library: two kinds of chart are all that the reports need, the
installed command needs no further package for them, and the same figures give the same octets, so
that a test can hold a committed chart to the committed figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, LEFT, RIGHT = 760, 150, 70
ROW, BAR, GAP = 18, 12, 12
"""Height of a bar with its distance to the next, of the bar itself, and between groups, in px."""

COLOURS = ("#2563eb", "#d97706", "#9ca3af", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#4b5563")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#111}.t{font-weight:600;font-size:14px}"
    ".paper{fill:#fff}.interval{stroke:#111}.grid{stroke:#e5e7eb}"
    "@media(prefers-color-scheme:dark){text{fill:#e5e7eb}.paper{fill:#0d1117}"
    ".interval{stroke:#f9fafb}.grid{stroke:#30363d}}"
)


@dataclass(frozen=True)
class Bar:
    """A figure, and the ends of its interval; both are the figure itself where it has none."""

    value: float
    low: float
    high: float


Point = tuple[float, float]


def bars(title: str, unit: str, rows: Mapping[str, Mapping[str, Bar]]) -> str:
    """Return a chart of horizontal bars.

    Args:
        title: Its heading.
        unit: What the figures are in.
        rows: Bars by row and by what they stand for; every row has the same.
    """
    names = list(next(iter(rows.values())))
    most = max(bar.high for row in rows.values() for bar in row.values())
    scale = (WIDTH - LEFT - RIGHT) / max(most, 1e-9)
    intervals = any(bar.low != bar.high for row in rows.values() for bar in row.values())
    parts, top = _heading(title, names, intervals), 62
    for label, row in rows.items():
        middle = top + len(row) * ROW / 2 + 3
        parts.append(_text(LEFT - 8, middle, label, "end"))
        for number, bar in enumerate(row.values()):
            parts += _bar(bar, top + number * ROW, scale, unit, COLOURS[number])
        top += len(row) * ROW + GAP
    return _svg(parts, top)


def _bar(bar: Bar, top: float, scale: float, unit: str, colour: str) -> list[str]:
    width, middle = max(bar.value, 0) * scale, top + BAR / 2
    low, high = LEFT + max(bar.low, 0) * scale, LEFT + bar.high * scale
    label = f"{bar.value:,.0f} {unit}"
    parts = [
        f'<rect x="{LEFT}" y="{top:g}" width="{width:.1f}" height="{BAR}" fill="{colour}"/>',
        _text(max(LEFT + width, high) + 6, middle + 4, label, "start"),
    ]
    if bar.low != bar.high:
        parts.append(_line([(low, middle), (high, middle)], 'class="interval"'))
    return parts


def lines(
    title: str,
    axes: tuple[str, str],
    series: Mapping[str, Sequence[Point]],
    logarithmic: tuple[bool, bool] = (False, False),
) -> str:
    """Return a chart of lines.

    Args:
        title: Its heading.
        axes: What is to the right, and what is up.
        series: Points by what they stand for.
        logarithmic: Whether each axis is; its values must then be above 0.
    """
    height, top, bottom = 356, 78, 306
    across = _axis([x for points in series.values() for x, _ in points], logarithmic[0])
    up = _axis([y for points in series.values() for _, y in points], logarithmic[1], zero=True)

    def place(point: Point) -> Point:
        x, y = across.share(point[0]), up.share(point[1])
        return LEFT + x * (WIDTH - LEFT - RIGHT), bottom - y * (bottom - top)

    parts = _heading(title, list(series))
    parts += _ticks(across, up, place)
    for colour, points in zip(COLOURS, series.values(), strict=False):
        way = [place(point) for point in points]
        parts.append(_line(way, f'stroke="{colour}" stroke-width="2"'))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, height - 10, axes[0], "middle"))
    parts.append(_text(LEFT - 8, top - 14, axes[1], "end"))
    return _svg(parts, height)


@dataclass(frozen=True)
class _Axis:
    """Where values are on an axis, as a share of its length, and which get a mark."""

    share: Callable[[float], float]
    marks: list[float]


def _axis(values: list[float], logarithmic: bool, zero: bool = False) -> _Axis:
    least, most = min(values), max(values)
    if logarithmic:
        low, high = floor(log10(least)), max(ceil(log10(most)), floor(log10(least)) + 1)
        marks = [10.0**power for power in range(low, high + 1)]
        return _Axis(lambda value: (log10(value) - low) / (high - low), marks)
    least = min(least, 0.0) if zero else least
    step = _step(most - least)
    low, high = floor(least / step), max(ceil(most / step), floor(least / step) + 1)
    marks = [number * step for number in range(low, high + 1)]
    return _Axis(lambda value: (value / step - low) / (high - low), marks)


def _step(extent: float) -> float:
    """Return the round number of which five or so make an extent."""
    rough = max(extent, 1e-9) / 5
    power = 10.0 ** floor(log10(rough))
    return power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _ticks(across: _Axis, up: _Axis, place: Callable[[Point], Point]) -> list[str]:
    parts = []
    for mark in across.marks:
        x, y = place((mark, up.marks[0]))
        parts.append(_text(x, y + 18, f"{mark:,.10g}", "middle"))
    for mark in up.marks:
        left, right = place((across.marks[0], mark)), place((across.marks[-1], mark))
        parts.append(_line([left, right], 'class="grid"'))
        parts.append(_text(LEFT - 8, left[1] + 4, f"{mark:,.10g}", "end"))
    return parts


def _heading(title: str, names: list[str], intervals: bool = False) -> list[str]:
    parts = [f'<text class="t" x="12" y="22">{escape(title)}</text>']
    left = 12.0
    for colour, name in zip(COLOURS, names, strict=False):
        parts.append(f'<rect x="{left:g}" y="34" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(left + 15, 43, name, "start"))
        left += 40 + 6.5 * len(name)
    if intervals:
        parts.append(_line([(left, 39), (left + 16, 39)], 'class="interval"'))
        parts.append(_text(left + 21, 43, "interval of the median", "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(points: Sequence[Point], look: str) -> str:
    at = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{at}" fill="none" {look}/>'


def _svg(parts: list[str], height: float) -> str:
    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    body = "\n".join([f"<style>{_STYLE}</style>", _BACKGROUND, *parts])
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>\n{body}\n</svg>\n'


_BACKGROUND = '<rect class="paper" width="100%" height="100%"/>'
