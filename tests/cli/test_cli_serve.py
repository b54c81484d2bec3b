"""``tei-manager serve``: its flags reach the settings, and win."""

from __future__ import annotations

from pathlib import Path

import pytest
from serve_command import settings_of
from typer.testing import CliRunner

from tei_manager.cli.main import app
from tei_manager.errors import InvalidSettings


def test_every_flag_reaches_the_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "models.toml"
    config.write_text('[log]\nlevel = "error"\n')
    settings = settings_of(
        [
            "serve", f"--config={config}",
            "--api-host=0.0.0.0", "--api-port=1", "--allow-insecure",
            "--grpc-host=::", "--grpc-port=2", f"--state={tmp_path}/s.db", f"--log-dir={tmp_path}",
            "--on-exit=leave", "--log-level=debug", "--log-format=json",
        ],
        monkeypatch,
    )  # fmt: skip
    assert (settings.api.host, settings.api.port) == ("0.0.0.0", 1)
    assert settings.api.allow_insecure is True
    assert (settings.grpc.host, settings.grpc.multiplexer_port) == ("::", 2)
    assert (settings.state.path, settings.instances.log_dir) == (tmp_path / "s.db", tmp_path)
    assert settings.instances.on_exit == "leave"
    assert (settings.log.level, settings.log.format) == ("debug", "json")


def test_flag_can_take_back_what_the_environment_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"TEI_MANAGER_API_ALLOW_INSECURE": "true", "TEI_MANAGER_ON_EXIT": "leave"}
    settings = settings_of(["serve"], monkeypatch, environ)
    assert settings.api.allow_insecure is True
    assert settings.instances.on_exit == "leave"
    flags = ["serve", "--no-allow-insecure", "--on-exit", "stop"]
    settings = settings_of(flags, monkeypatch, environ)
    assert settings.api.allow_insecure is False
    assert settings.instances.on_exit == "stop"


def test_others_get_in_without_a_token_only_by_the_flag_that_says_so() -> None:
    result = CliRunner().invoke(app, ["serve", "--api-host", "0.0.0.0"])
    assert isinstance(result.exception, InvalidSettings)
    assert "command line: api.host = '0.0.0.0' opens an API without" in str(result.exception)


def test_mistake_in_a_flag_is_one_sentence() -> None:
    result = CliRunner().invoke(app, ["serve", "--on-exit", "keep"])
    assert isinstance(result.exception, InvalidSettings)
    assert result.exception.mistakes == [
        "command line: instances.on_exit: Input should be 'stop' or 'leave'"
    ]
