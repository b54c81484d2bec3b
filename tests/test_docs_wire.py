"""The table of limits in docs/wire.md against the constants that it names."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from tei_manager.wire.limits import TokenBucket

PAGE = (Path(__file__).parents[1] / "docs" / "wire.md").read_text("utf-8")
ROW = re.compile(r"^\| (?P<what>.+?) \| (?P<limit>.+?) \| `(?P<constant>[\w.]+)` \|", re.MULTILINE)
ROWS = {found["constant"]: found["limit"] for found in ROW.finditer(PAGE)}

UNITS = {"": 1, " KiB": 1 << 10, " MiB": 1 << 20, " s": 1, " ms": 1e-3, " %": 1e-2}


def stated(limit: str) -> tuple[float, ...]:
    """Read a limit as the page writes it: a number with a unit, or a bucket's burst and rate."""
    if bucket := re.fullmatch(r"(\d+), (\d+)/s", limit):
        return float(bucket[1]), float(bucket[2])
    found = re.fullmatch(r"([\d,]+)( \S+)?", limit)
    assert found, f"not a limit: {limit!r}"
    return (int(found[1].replace(",", "")) * UNITS[found[2] or ""],)


def actual(constant: str) -> tuple[float, ...]:
    """Return what a constant is; for a field of a class, what a new object has."""
    value: Any = importlib.import_module("tei_manager")
    for name in constant.split("."):
        if hasattr(value, "__path__"):  # a package
            value = importlib.import_module(f"{value.__name__}.{name}")
        else:
            value = getattr(value() if isinstance(value, type) else value, name)
    if isinstance(value, TokenBucket):
        return value.burst, value.rate
    return (value << 20,) if constant.endswith("_mb") else (value,)


@pytest.mark.parametrize(("constant", "limit"), ROWS.items(), ids=ROWS)
def test_the_number_on_the_page_is_the_number_in_the_code(constant: str, limit: str) -> None:
    assert stated(limit) == pytest.approx(actual(constant))


def test_every_row_of_the_table_was_read() -> None:
    table = PAGE.split("## Limits")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(ROWS) == len(lines) - 2


@pytest.mark.parametrize("path", re.findall(r"\]\(\.\./([\w/.]+)\)|`(tests/[\w/.]+)`", PAGE))
def test_what_the_page_points_to_exists(path: tuple[str, str]) -> None:
    assert (Path(__file__).parents[1] / (path[0] or path[1])).exists()
