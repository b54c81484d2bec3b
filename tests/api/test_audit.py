"""One line in the log for each request that would change something."""

from __future__ import annotations

import logging
from pathlib import Path

import httpx
import pytest
from control_plane import running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from tei_manager.api.audit import Audit

pytestmark = pytest.mark.asyncio


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if record.name == "tei_manager.api.audit"
    ]


async def test_changes_and_refusals_are_told_with_who_and_result_and_reading_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with running(tmp_path) as rig:
        await rig.create("a", autostart=False)
        await rig.api.get("/instances")
        await rig.api.post("/instances/b/stop?wait=1")
        await rig.api.delete("/instances/a", headers={"origin": "http://evil.example"})
        await rig.api.delete("/instances/a")
    who = "(client 127.0.0.1:123, token none)"
    assert _lines(caplog) == [
        f"Audit: POST /instances?wait=30 -> 201 /instances/a {who}",
        f"Audit: POST /instances/b/stop?wait=1 -> 404 {who}",
        f"Audit: DELETE /instances/a -> 403 {who}",
        f"Audit: DELETE /instances/a -> 204 {who}",
    ]


@pytest.mark.parametrize("path", ["/a%0Aforged", "/a%1b[31m", "/%E2%80%A8x", "/%c2%85x"])
async def test_line_cannot_be_forged_by_the_path(
    caplog: pytest.LogCaptureFixture, path: str
) -> None:
    caplog.set_level(logging.INFO)
    transport = httpx.ASGITransport(Audit(Starlette()))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        await client.post(path)
    (line,) = _lines(caplog)
    assert line.isprintable()
    assert len(line.splitlines()) == 1


async def test_request_that_fails_inside_is_told_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def broken(request: Request) -> Response:
        raise RuntimeError

    caplog.set_level(logging.INFO)
    app = Starlette()
    app.add_route("/x", broken, ["POST"])
    transport = httpx.ASGITransport(Audit(app), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        await client.post("/x")
    (line,) = _lines(caplog)
    assert "POST /x -> 500" in line
