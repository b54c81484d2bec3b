"""``tei-manager models`` against a serving manager and a hub on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from api_thread import serving
from fake_hub import MODEL, fake_hub
from typer.testing import CliRunner

from tei_manager.cli.main import app


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("m")
    with fake_hub() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        with serving(folder) as url:
            yield url


def _run(api: str, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["models", *arguments, "--api", api])
    return result.exit_code, result.output


def test_a_model_is_led_through_its_life(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "models download" in _run(api, "list")[1]
    assert _run(api, "add", MODEL) == (0, f"{MODEL}: available\n")
    assert _run(api, "download", MODEL) == (0, f"{MODEL}: downloaded\n")
    assert _run(api, "verify", MODEL) == (0, f"{MODEL}: verified\n")
    assert "24 MiB" in _run(api, "list")[1]
    assert "last_verified" in _run(api, "show", MODEL)[1]
    rows = json.loads(_run(api, "list", "--json")[1])
    assert [(row["model_id"], row["status"]) for row in rows] == [(MODEL, "verified")]
    assert _run(api, "delete", MODEL) == (0, f"{MODEL}: deleted\n")


def test_exit_codes_tell_missing_from_failed(api: str) -> None:
    assert _run(api, "show", "org/none")[0] == 3
    code, said = _run(api, "download", "org/none")
    assert (code, said.startswith("org/none: failed (The hub has no model")) == (1, True)
