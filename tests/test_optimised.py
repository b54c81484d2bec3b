"""Nothing depends on ``assert``, which ``python -O`` leaves out."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tei_manager

CHECKED = ("api", "settings", "manager")


@pytest.mark.parametrize("room", CHECKED)
def test_no_check_is_an_assert_which_python_o_would_leave_out(room: str) -> None:
    """Asserts tell mypy what is known; each of them is about a type or None."""
    for path in (Path(tei_manager.__file__).parent / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                told = ast.unparse(node.test)
                assert told.startswith("isinstance(") or told.endswith("is not None"), (path, told)
