"""``tei-manager config``, and ``tei-manager`` itself as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tei_manager import __version__
from tei_manager.cli.main import app
from tei_manager.settings import Settings

RUNNER = CliRunner()
EXAMPLE = Path(__file__).parents[2] / "examples" / "three-models.toml"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tei_manager", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_settings_without_mistakes_are_said_to_be_so() -> None:
    result = RUNNER.invoke(app, ["config", "check", "--config", str(EXAMPLE)])
    assert result.exit_code == 0
    assert "no mistakes; 3 [[instance]] tables" in result.output


def test_every_mistake_is_printed_and_the_exit_code_says_so(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[api]\nprot = 1\n[grpc]\nworkers = 0\n")
    done = _run("config", "check", "--config", str(tmp_path / "x.toml"))
    assert done.returncode == 1
    assert "x.toml:2: unknown key 'api.prot'" in done.stderr
    assert "x.toml:4: grpc.workers" in done.stderr
    assert "Traceback" not in done.stderr


def test_show_prints_every_setting_and_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TEI_MANAGER_GRPC_PORT", "9009")
    (tmp_path / "x.toml").write_text("[health]\ninterval_secs = 7.5\n")
    result = RUNNER.invoke(app, ["config", "show", "--config", str(tmp_path / "x.toml")])
    assert result.exit_code == 0, result.output
    for field in Settings.model_fields:
        assert field == "instance" or f"[{field}]" in result.output
    assert "environment TEI_MANAGER_GRPC_PORT" in result.output
    assert "x.toml:2" in "".join(result.output.split())


def test_shown_json_is_the_settings() -> None:
    result = RUNNER.invoke(app, ["config", "show", "--json", "--config", str(EXAMPLE)])
    settings = Settings.model_validate(json.loads(result.output))
    assert [spec.name for spec in settings.instance] == ["search", "clustering", "batch"]


def test_module_is_the_command() -> None:
    assert _run("--version").stdout.strip() == __version__


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, tei_manager.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    modules = set(done.stdout.split())
    assert modules & {"grpc", "fastapi", "uvicorn", "pydantic", "httpx", "rich.table"} == set()
