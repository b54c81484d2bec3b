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


def test_shown_json_has_each_value_with_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEI_MANAGER_API_PORT", "9100")
    result = RUNNER.invoke(app, ["config", "show", "--json", "--config", str(EXAMPLE)])
    document = json.loads(result.output)
    plain = {
        section: {key: shown["value"] for key, shown in values.items()}
        for section, values in document.items()
        if section != "instance"
    }
    assert Settings.model_validate(plain).api.port == 9100
    assert document["api"]["port"]["origin"] == "environment TEI_MANAGER_API_PORT"
    assert document["api"]["host"] == {"value": "127.0.0.1", "origin": "default"}
    names = [table["name"] for table in document["instance"]]
    assert [name["value"] for name in names] == ["search", "clustering", "batch"]
    line = EXAMPLE.read_text().splitlines().index('name = "batch"') + 1
    assert names[2]["origin"] == f"{EXAMPLE}:{line}"


def test_instances_are_shown_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('[[instance]]\nname = "a"\nmodel_id = "m"\n')
    result = RUNNER.invoke(app, ["config", "show", "-c", str(tmp_path / "x.toml")])
    lines = {tuple(line.split()) for line in result.output.splitlines()}
    assert ("model_id", '"m"', f"{tmp_path}/x.toml:3") in lines
    assert ("max_batch_tokens", "16384", "default") in lines


def test_mistakes_are_json_for_programs(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("[api]\nprot = 1\n")
    result = RUNNER.invoke(app, ["config", "check", "--json", "-c", str(tmp_path / "x.toml")])
    (mistake,) = json.loads(result.output)["mistakes"]
    assert (result.exit_code, "x.toml:2: unknown key" in mistake) == (1, True)
    result = RUNNER.invoke(app, ["config", "check", "--json", "-c", str(EXAMPLE)])
    assert (result.exit_code, json.loads(result.output)) == (0, {"mistakes": []})


def test_schema_knows_every_table_and_key() -> None:
    schema = json.loads(RUNNER.invoke(app, ["config", "schema"]).output)
    assert set(schema["properties"]) == set(Settings.model_fields)
    assert schema["additionalProperties"] is False
    assert schema["$defs"]["InstanceSpec"]["properties"]["name"]["pattern"].startswith("^(?:[a-z")


def test_module_is_the_command() -> None:
    assert _run("--version").stdout.strip() == __version__


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, tei_manager.cli.main; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    modules = set(done.stdout.split())
    assert (
        modules
        & {"grpc", "fastapi", "uvicorn", "pydantic", "httpx", "rich.table", "prometheus_client"}
        == set()
    )
