"""Pages of other web sites: let in if the settings name their site, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from control_plane import running

pytestmark = pytest.mark.asyncio

SITE = "https://tools.example"
PREFLIGHT = {
    "origin": SITE,
    "sec-fetch-site": "cross-site",
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type",
}


async def test_no_answer_lets_another_site_read_it(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        for method, path in (("GET", "/instances"), ("OPTIONS", "/instances"), ("GET", "/health")):
            answer = await rig.api.request(method, path, headers=PREFLIGHT)
            assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_site_that_is_named_may_ask_and_change_with_the_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("correct-horse-battery-staple")
    (tmp_path / "token").chmod(0o600)
    api: dict[str, Any] = {"port": 0, "cors_origins": [SITE], "token_file": tmp_path / "token"}
    async with running(tmp_path, api=api) as rig:
        asked = await rig.api.options("/instances", headers=PREFLIGHT)
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == SITE
        headers = {"origin": SITE, "sec-fetch-site": "cross-site"}
        refused = await rig.api.get("/instances", headers=headers)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, SITE)
        token = {"authorization": "Bearer correct-horse-battery-staple"}
        body = {"name": "a", "model_id": "m", "autostart": False}
        made = await rig.api.post("/instances", json=body, headers=headers | token)
        assert made.status_code == 201
        other = PREFLIGHT | {"origin": "https://evil.example"}
        assert (await rig.api.options("/instances", headers=other)).status_code == 403
