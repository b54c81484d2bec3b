"""What `tei-manager serve` would run with, for arguments and an environment, without running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest
from typer.testing import CliRunner

from tei_manager.cli.main import app
from tei_manager.settings import ENVIRONMENT, Settings


def settings_of(
    argv: Sequence[str], monkeypatch: pytest.MonkeyPatch, environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings that the command hands to the server.

    Args:
        argv: From ``serve`` on.
        monkeypatch: Puts a stand-in where the server is, and the environment.
        environ: All of our variables that are set.
    """
    given: list[Settings] = []

    async def serve(settings: Settings, reread: Callable[[], Settings]) -> None:
        assert reread() == settings
        given.append(settings)

    for name in (*ENVIRONMENT, "TEI_MANAGER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environ or {}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("tei_manager.api.server.serve", serve)
    monkeypatch.setattr("tei_manager.telemetry.logs.configure", lambda *_: None)
    result = CliRunner().invoke(app, [*argv])
    assert result.exit_code == 0, result.output or result.exception
    return given[0]
