"""The tables in docs/testing.md against the tests that they name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "testing.md").read_text("utf-8")
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 15
    for file, name in NAMED:
        assert not name or f"def {name}(" in (ROOT / file).read_text("utf-8"), f"{file}::{name}"
        assert (ROOT / file).is_file()


def test_the_page_has_a_row_for_every_property_rule_machine_and_target() -> None:
    rows = set(re.findall(r"^\| ([\dMRZ]\d*) \|", PAGE, re.MULTILINE))
    wanted = {*map(str, range(1, 16)), "M1", "M2", "M3", "M4", "M5", "M6"}
    wanted |= {f"R{number}" for number in range(1, 30)}
    assert wanted | {"Z1", "Z2", "Z3", "Z4", "Z5", "Z6", "Z7", "Z8", "Z10"} <= rows
