"""The switch does no more work for a call than is committed, whatever the clock says."""

from __future__ import annotations

import pytest

from benchmarks.opcodes import (
    FILE,
    LOADS,
    PACKAGE,
    TOLERANCE,
    VERSION,
    _counting,
    by_file,
    committed,
    count,
)


@pytest.mark.parametrize("load", LOADS)
def test_a_call_takes_the_bytecodes_that_are_committed(load: str) -> None:
    counts = committed().get(VERSION)
    if not counts:
        pytest.skip(f"{FILE.name} has no counts of Python {VERSION}")
    found, expected = count(load).total(), sum(counts[load].values())
    assert found == pytest.approx(expected, rel=TOLERANCE), (
        f"{load}: {found:,.0f} bytecodes, committed are {expected:,.0f}. If that is meant: "
        "python -m benchmarks.opcodes --save && python -m benchmarks.pages"
    )


def test_a_table_of_files_adds_up_to_all_bytecodes() -> None:
    counts = {
        "a load": {f"wire/{n}.py": float(n) for n in range(1, 20)},
        "other": {"wire/9.py": 5.0},
    }
    heading, *rows = by_file(counts)
    assert heading == ["bytecodes of", "a load", "other"]
    assert rows[0] == ["wire/19.py", "19", "0"]
    assert rows[-2:] == [["all others", "28", "0"], ["all", "190", "5"]]


def test_the_same_load_takes_the_same_bytecodes_each_time() -> None:
    load = next(iter(LOADS))
    assert count(load) == count(load)


def _adding(times: int, file: str) -> int:
    """Count the bytecodes of a function that is so many additions long."""
    made: dict[str, object] = {}
    body = "".join("    n = n + n\n" for _ in range(times))
    exec(compile(f"def run(n):\n{body}", file, "exec"), made)
    with _counting() as found:
        made["run"](0)  # type: ignore[operator]
    return found.total()


def test_every_bytecode_of_the_package_is_counted_and_no_other() -> None:
    own = [_adding(times, f"{PACKAGE}/wire/made_up.py") for times in (10, 20, 30)]
    assert own[2] - own[1] == own[1] - own[0] >= 20
    assert _adding(10, "elsewhere.py") == 0
