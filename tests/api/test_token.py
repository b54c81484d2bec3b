"""The bearer token: who has it, and what becomes of a file that is changed or unfit."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tei_manager.api.token import Authorization
from tei_manager.errors import LaunchFailed
from tei_manager.tokens import MIN_LENGTH, TokenFile

OLD, NEW = "o" * MIN_LENGTH, "n" * 40


def _write(folder: Path, text: str, mode: int = 0o600) -> Path:
    fresh = folder / "fresh"
    fresh.write_text(text)
    fresh.chmod(mode)
    return fresh.rename(folder / "token")


async def _who(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.scope.get("tei_manager.token", "nobody"))


def _client(path: Path) -> httpx.AsyncClient:
    routes = [Route(path, _who) for path in ("/instances", "/metrics", "/health", "/openapi.json")]
    app = Authorization(Starlette(routes=routes), TokenFile(path))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def _status(client: httpx.AsyncClient, token: str, path: str = "/instances") -> int:
    answer = await client.get(path, headers={"authorization": f"Bearer {token}"})
    return answer.status_code


@pytest.mark.asyncio
async def test_token_lets_in_and_is_known_by_its_fingerprint_only(tmp_path: Path) -> None:
    async with _client(_write(tmp_path, f"{OLD}\n")) as client:
        answer = await client.get("/instances", headers={"authorization": f"bearer {OLD}"})
        assert (answer.status_code, len(answer.text)) == (200, 8)
        assert answer.text not in OLD


@pytest.mark.asyncio
async def test_nobody_else_gets_in_but_for_health_and_documentation(tmp_path: Path) -> None:
    async with _client(_write(tmp_path, OLD)) as client:
        refused = await client.get("/instances")
        assert (refused.status_code, refused.json()["code"]) == (401, "UNAUTHENTICATED")
        assert refused.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/openapi.json")).status_code == 200


@pytest.mark.asyncio
async def test_new_token_is_good_as_soon_as_the_file_changes_and_the_old_one_is_not(
    tmp_path: Path,
) -> None:
    async with _client(_write(tmp_path, OLD)) as client:
        assert await _status(client, NEW) == 401
        _write(tmp_path, f"{OLD}\n\n{NEW}\n")
        assert [await _status(client, token) for token in (OLD, NEW)] == [200, 200]
        _write(tmp_path, NEW)
        assert [await _status(client, token) for token in (OLD, NEW)] == [401, 200]


@pytest.mark.asyncio
async def test_file_that_turns_unfit_lets_nobody_in_until_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with _client(_write(tmp_path, OLD)) as client:
        assert await _status(client, OLD) == 200
        (tmp_path / "token").chmod(0o644)
        with caplog.at_level(logging.ERROR):
            assert await _status(client, OLD) == 503
        assert "chmod 600" in caplog.text
        (tmp_path / "token").chmod(0o600)
        assert await _status(client, OLD) == 200
        (tmp_path / "token").unlink()
        assert await _status(client, OLD) == 503
        assert await _status(client, OLD, "/health") == 200


@pytest.mark.parametrize(
    ("text", "mode", "reason"),
    [
        (OLD, 0o640, "chmod 600"),
        (OLD, 0o604, "chmod 600"),
        ("", 0o600, "16 characters"),
        ("\n\n", 0o600, "16 characters"),
        ("short", 0o600, "16 characters"),
        (f"{OLD}\nshort", 0o600, "16 characters"),
    ],
)
def test_file_that_protects_nothing_is_refused(
    tmp_path: Path, text: str, mode: int, reason: str
) -> None:
    with pytest.raises(LaunchFailed, match=reason):
        TokenFile(_write(tmp_path, text, mode)).tokens()


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(LaunchFailed, match=r"none cannot be read: No such file"):
        TokenFile(tmp_path / "none").tokens()


def test_file_is_parsed_once_for_each_change(tmp_path: Path) -> None:
    file = TokenFile(_write(tmp_path, OLD))
    first = file.tokens()
    assert file.tokens() is first
    os.utime(tmp_path / "token", ns=(1, 1))
    assert file.tokens() is not first
