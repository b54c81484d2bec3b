"""Reports have every measured case, its intervals, and nothing from elsewhere."""

from __future__ import annotations

import platform
import re
import sysconfig
from pathlib import Path

import pytest

from tei_manager.bench.about import about
from tei_manager.bench.cases import cases
from tei_manager.bench.interpreter import interpreter
from tei_manager.bench.report import NOTE, chart, markdown_page, page, table
from tei_manager.bench.results import ADDED, DIRECT, OURS, TOOK, Overheads


@pytest.fixture
def results() -> Overheads:
    made = Overheads(about("some command"))
    for case in cases():
        for turn in range(10):
            made.add(case.name, DIRECT, {TOOK: 1000.0, ADDED: 0.0})
            made.add(case.name, OURS, {TOOK: 1100.0, ADDED: 100.0 + turn})
            made.add(case.name, "envoy", {TOOK: 1200.0, ADDED: 200.0})
    return made


def test_a_row_has_times_overheads_ratios_and_the_published_figure(results: Overheads) -> None:
    heading, first, *_ = table(results)
    row = dict(zip(heading, first, strict=True))
    assert (row["direct"], row["through"]) == ("1,000", "1,100")
    assert row[OURS] == "104 (101-108)"
    assert row["envoy"] == "200 (200-200)"
    assert row["ours / envoy"] == "0.52 (0.51-0.54)"
    assert first[4] == "10.4"
    assert first[-2:] == ["168", "15.4"]


def test_cases_that_were_not_measured_have_no_row(results: Overheads) -> None:
    assert len(table(results)) == 1 + len(cases())
    del results.rounds["short"]
    assert len(table(results)) == len(cases())
    assert "short" not in chart(results)


def test_a_page_opens_without_a_network_and_says_what_was_run(results: Overheads) -> None:
    text = page(results)
    assert not re.findall(r"<script|<link|<img|src=|url\(|https?://(?!www\.w3\.org/2000/svg)", text)
    assert text.count("<svg") == 1
    assert all(value in text for value in results.about.values())
    assert all(f"<td>{case.name}</td>" in text for case in cases())


def test_markdown_has_the_table_the_note_and_what_was_run(results: Overheads) -> None:
    text = markdown_page(results)
    assert "| short | 1,000 | 1,100 | 104 (101-108) | 10.4 |" in text
    assert NOTE in text
    assert "- command: some command\n" in text


def test_a_file_reads_as_it_was_written(results: Overheads, tmp_path: Path) -> None:
    results.write(tmp_path / "run.json")
    assert Overheads.read(tmp_path / "run.json") == results


def test_what_is_told_of_the_machine_has_no_name_and_no_path() -> None:
    told = " ".join(about("command").values())
    for private in (platform.node(), str(Path.cwd()), str(Path.home())):
        assert private not in told.split()
        assert not private.startswith("/") or private not in told
    assert f"Python {platform.python_version()}" in told


def test_it_is_told_which_build_of_python_ran_and_how_fast_it_is() -> None:
    told = about("command")["interpreter"]
    assert told.startswith(f"{platform.python_implementation()}, {platform.python_compiler()}, ")
    assert " ".join(platform.python_build()) in told
    step = re.search(r"([\d.]+) ns for a step", told)
    assert step is not None
    assert 1 < float(step[1]) < 10_000


@pytest.mark.parametrize(
    ("arguments", "told"),
    [("'--enable-optimizations' '--with-lto'", "--enable-optimizations,"), (None, "none,")],
)
def test_an_optimised_build_is_known_by_what_it_was_configured_with(
    arguments: str | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sysconfig, "get_config_var", lambda name: arguments)
    assert f"optimisations told of: {told}" in interpreter()
