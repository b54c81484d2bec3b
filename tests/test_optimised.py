"""Nothing depends on ``assert``, which ``python -O`` leaves out."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tei_manager

CHECKED = ("", "api", "grpc", "manager", "mux", "settings", "telemetry", "wire")


@pytest.mark.parametrize("room", CHECKED)
def test_no_check_is_an_assert_which_python_o_would_leave_out(room: str) -> None:
    """Asserts tell mypy what is known; each of them is about a type or None."""
    for path in (Path(tei_manager.__file__).parent / room).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assert):
                told = ast.unparse(node.test)
                assert told.startswith("isinstance(") or told.endswith("is not None"), (path, told)


GUARDS = (
    "tests/api/test_guard.py",
    "tests/api/test_token.py",
    "tests/api/test_rate.py",
    "tests/mux/test_tokens.py",
    "tests/wire/test_envelope.py",
    "tests/wire/test_hostile_bytes.py",
    "tests/test_settings_external.py",
)
"""What is refused, and what hostile octets come to: pytest's own asserts work under -O as well."""


def test_what_guards_refuses_the_same_without_asserts() -> None:
    command = [
        sys.executable, "-O", "-m", "pytest", "-q", "-p", "no:cacheprovider",
        "-W", "ignore::pytest.PytestConfigWarning", *GUARDS,
    ]  # fmt: skip
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
