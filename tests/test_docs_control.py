"""docs/configuration.md and docs/rest.md against the code."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tei_manager import errors

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in
         ("configuration", "rest")}  # fmt: skip
LIMIT = re.compile(r"^\| .+? \| ([\d.]+)(?: (KiB|MiB|s))? \| `([\w.]+)` \|$", re.MULTILINE)
UNITS = {"": 1, "KiB": 1 << 10, "MiB": 1 << 20, "s": 1}


def test_what_is_made_from_the_code_is_current() -> None:
    command = [sys.executable, "tools/gen_docs.py", "--check"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("number", "unit", "constant"), LIMIT.findall(PAGES["rest"]))
def test_limit_on_the_page_is_the_limit_in_the_code(number: str, unit: str, constant: str) -> None:
    module, _, name = constant.rpartition(".")
    value = getattr(importlib.import_module(f"tei_manager.{module}"), name)
    assert float(number) * UNITS[unit] == value


def test_every_limit_was_read() -> None:
    rows = PAGES["rest"].split("## Limits")[1].strip().splitlines()
    assert len(LIMIT.findall(PAGES["rest"])) == len(rows) - 2


def test_every_code_of_the_error_tree_that_rest_answers_is_on_the_page() -> None:
    tree = [value for value in vars(errors).values() if isinstance(value, type)]
    codes = {value.code for value in tree if issubclass(value, errors.TeiManagerError)}
    missing = {code for code in codes if f"`{code}`" not in PAGES["rest"]}
    assert missing == {"INVALID_CONFIG"}, "settings are no request"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGES[page])
    assert links
    for link in links:
        assert (ROOT / "docs" / link).exists(), link


@pytest.mark.parametrize("key", re.findall(r"`((?:api|grpc|instances)\.\w+)`", PAGES["rest"]))
def test_setting_that_is_named_exists(key: str) -> None:
    assert f"| `{key}` |" in PAGES["configuration"]
