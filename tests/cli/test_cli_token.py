"""The commands and a manager that wants a token."""

from __future__ import annotations

from pathlib import Path

import pytest
from served import served
from typer.testing import CliRunner

from tei_manager.cli.main import app

RUNNER = CliRunner()
TOKEN = "correct-horse-battery-staple"


def test_the_same_file_opens_the_api_to_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    (tmp_path / "token").chmod(0o600)
    monkeypatch.setenv("TEI_MANAGER_API_TOKEN_FILE", str(tmp_path / "token"))
    with served(tmp_path) as manager:
        by_environment = RUNNER.invoke(app, ["instances", "list", "--api", manager.url])
        assert (by_environment.exit_code, by_environment.output[:12]) == (0, "No instances")
        monkeypatch.delenv("TEI_MANAGER_API_TOKEN_FILE")
        refused = RUNNER.invoke(app, ["instances", "list", "--api", manager.url])
        assert (refused.exit_code, "--token-file" in refused.output) == (1, True)
        flag = ["--token-file", str(tmp_path / "token")]
        by_flag = RUNNER.invoke(app, ["instances", "list", "--api", manager.url, *flag])
        assert by_flag.exit_code == 0
        top = ["instances", "top", "-i", "0.1", "--json", "--api", manager.url, *flag]
        assert RUNNER.invoke(app, top).exit_code == 0
