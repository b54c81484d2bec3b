"""The API against its own OpenAPI document, tried by a program that nobody here wrote.

schemathesis makes requests that keep to the document and requests that do not, and chains of them.
What it must not find: a 5xx, an answer or a status that the document does not have, a method that
is not refused as it should be, an operation that can be used without the token.
One of its checks is left out: that every request in keeping with the document is accepted, because
a schema cannot say which ports are free, nor which flags and folders are.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from api_thread import serving

FAKES = Path(__file__).parents[1] / "fakes"
TOKEN = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep requests to delete and download models away from this machine's own."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _run(folder: Path, url: str, *flags: str, phases: str) -> None:
    """Run schemathesis in a folder, where it leaves a cache."""
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", *flags,
        "--phases", phases, "--max-examples", "15", "--seed", "1", "--request-timeout", "15",
        "--exclude-checks", "positive_data_acceptance", "--generation-database", "none",
    ]  # fmt: skip
    environ = {**os.environ, "PYTHONPATH": str(FAKES), "SCHEMATHESIS_HOOKS": "schemathesis_hooks"}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize("phases", ["coverage,fuzzing", "stateful"])
def test_what_the_document_says_is_what_happens(tmp_path: Path, phases: str) -> None:
    with serving(tmp_path, instances={"max": 3}) as url:
        _run(tmp_path, url, phases=phases)


@pytest.mark.timeout(300)
def test_no_operation_is_forgotten_by_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "token").chmod(0o600)
    with serving(tmp_path, api={"port": 0, "token_file": tmp_path / "token"}) as url:
        _run(tmp_path, url, "-H", f"Authorization: Bearer {TOKEN}", phases="coverage")
