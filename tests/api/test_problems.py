"""Every error of the API has the one shape, whoever made it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from control_plane import running

from tei_manager.errors import TeiManagerError

pytestmark = pytest.mark.asyncio


def _shape(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"error", "code", "timestamp"}
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert body["error"]
    return answer.status_code, body["code"]


async def test_every_kind_of_mistake_answers_in_the_one_shape(tmp_path: Path) -> None:
    good = {"name": "a", "model_id": "m"}

    async with running(tmp_path) as rig:

        async def post(body: Any, **query: Any) -> tuple[int, str]:
            return _shape(await rig.api.post("/instances", json=body, params=query))

        assert _shape(await rig.api.get("/instances/none")) == (404, "INSTANCE_NOT_FOUND")
        assert _shape(await rig.api.get("/nothing")) == (404, "NOT_FOUND")
        assert _shape(await rig.api.put("/instances")) == (405, "METHOD_NOT_ALLOWED")
        assert await post({}) == (422, "VALIDATION_ERROR")
        assert await post([]) == (422, "VALIDATION_ERROR")
        assert await post({**good, "nmae": 1}) == (422, "VALIDATION_ERROR")
        assert await post({**good, "max_batch_tokens": "9"}) == (422, "VALIDATION_ERROR")
        assert await post({**good, "autostart": 1}) == (422, "VALIDATION_ERROR")
        assert await post(good, wait="soon") == (422, "VALIDATION_ERROR")
        assert await post(good, wait="nan") == (422, "VALIDATION_ERROR")
        headers = {"content-type": "application/json"}
        broken = await rig.api.post("/instances", content=b"{", headers=headers)
        assert _shape(broken) == (400, "INVALID_JSON")
        latin = await rig.api.post("/instances", content=b'{"name": "\xff"}', headers=headers)
        assert _shape(latin)[0] in (400, 422)
        deep = await rig.api.post("/instances", content=b"[" * 60_000, headers=headers)
        assert _shape(deep)[0] in (400, 422)
        assert (await rig.api.get("/instances")).json() == []


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/instances", "GET, HEAD, POST"),
        ("/instances/a", "DELETE, GET, HEAD"),
        ("/instances/a/start", "POST"),
        ("/health", "GET, HEAD"),
    ],
)
async def test_wrong_method_is_told_all_the_right_ones(
    tmp_path: Path, path: str, allowed: str
) -> None:
    async with running(tmp_path) as rig:
        answer = await rig.api.put(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_unknown_field_is_named(tmp_path: Path) -> None:
    async with running(tmp_path) as rig:
        answer = await rig.create("a", colour="red")
        assert answer["error"] == "unknown field 'colour'"


@pytest.mark.parametrize(
    "name", ["", "A", "../etc", "/abs", "a/b", "a b", ".a", "a" * 64, "a\n", "é", "mux-worker-0"]
)
async def test_name_that_could_leave_the_log_folder_is_refused(tmp_path: Path, name: str) -> None:
    async with running(tmp_path) as rig:
        assert (await rig.create(name))["code"] == "VALIDATION_ERROR"


@pytest.mark.parametrize(
    "argument",
    ["--port=1", "--hostname=0.0.0.0", "--hostn=0.0.0.0", "-p", "value", "--", "--api-key=x",
     "--uds-path=/x", "--model-id", "--a b", "--x=\n", "--PORT=1", "--otlp-endpoint=http://x"],
)  # fmt: skip
async def test_extra_argument_that_could_override_the_manager_is_refused(
    tmp_path: Path, argument: str
) -> None:
    async with running(tmp_path) as rig:
        assert (await rig.create("a", argument))["code"] == "VALIDATION_ERROR"


async def test_bug_is_answered_without_its_details(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    async with running(tmp_path) as rig:
        monkeypatch.setattr(rig.manager.registry, "statuses", broken)
        answer = await rig.api.get("/instances")
        assert _shape(answer) == (500, "INTERNAL_ERROR")
        assert "secret" not in answer.text


async def test_error_that_a_user_can_mend_keeps_its_own_code_and_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(TeiManagerError):
        code, http_status = "ODD", 418

    def odd() -> None:
        raise Odd("it is odd")

    async with running(tmp_path) as rig:
        monkeypatch.setattr(rig.manager.registry, "statuses", odd)
        assert _shape(await rig.api.get("/instances")) == (418, "ODD")
