"""docs/faults.md is made from the committed figures, and shows every one of the parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults.__main__ import PARTS
from benchmarks.faults.bars import in_time
from benchmarks.faults.floods import FLOODS
from benchmarks.faults.report import render
from benchmarks.faults.slow import KINDS
from tei_manager.bench.results import OURS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / "faults.json").read_text("utf-8"))


def test_the_page_is_that_of_the_committed_run(document: Any) -> None:
    assert (ROOT / "docs" / "faults.md").read_text("utf-8") == render(document)


def test_the_committed_run_is_a_whole_one(document: Any) -> None:
    names = [flood.name for flood in FLOODS]
    for results in document["servers"].values():
        assert set(PARTS) <= set(results)
        assert list(results["floods"]) == list(results["floods_20"]) == names
        assert list(results["slow"]) == list(KINDS)


def test_our_switch_ended_every_flood_in_the_committed_run(document: Any) -> None:
    for name, row in document["servers"][OURS]["floods"].items():
        assert in_time(row), name


def test_what_was_not_run_is_not_on_the_page(document: Any) -> None:
    ours = document["servers"][OURS]
    alone = {**document, "servers": {OURS: {key: ours[key] for key in ("version", "slow")}}}
    page = render(alone)
    assert "## Slow peers" in page
    assert "## Floods" not in page
    assert "F7" not in page


def test_a_peer_without_a_row_shows_none(document: Any) -> None:
    servers = {**document["servers"], "silent": {"version": "0"}}
    page = render({**document, "servers": servers})
    row = next(line for line in page.splitlines() if line.startswith("| rapid reset |"))
    assert row.endswith("| - |")


def test_what_is_missing_is_named(document: Any) -> None:
    assert "not installed, left out: teapot" in render({**document, "missing": ["teapot"]})
