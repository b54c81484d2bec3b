"""Requests from whom they should not come, without a token, or larger than they may be.

Each is refused and changes nothing; beside each kind stands a request that is accepted, so that
a probe which could never have succeeded is noticed.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from probed import TOKEN, Probed, probed

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEDIA = {"content-type": "application/json"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def target(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Probed]:
    folder = tmp_path_factory.mktemp("probed")
    (folder / "token").write_text(f"{TOKEN}\n")
    (folder / "token").chmod(0o600)
    async with probed(folder, api={"port": 0, "token_file": folder / "token"}) as manager:
        yield manager


CHANGES = (
    ("POST", "/instances"),
    ("DELETE", "/instances/victim"),
    ("POST", "/instances/victim/start"),
)

FOREIGN: tuple[dict[str, str], ...] = (
    {"host": "evil.example"},
    {"host": "localhost.evil.example:9000"},
    {"host": "169.254.169.254"},
    {"host": ""},
    {"origin": "http://evil.example"},
    {"origin": "https://localhost.evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)

FORMS = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
         "text/plain; application/json", "application/json5", "")  # fmt: skip

NOBODY: tuple[dict[str, str], ...] = (
    {},
    {"authorization": ""},
    {"authorization": "Bearer"},
    {"authorization": "Bearer "},
    {"authorization": TOKEN},
    {"authorization": f"Basic {TOKEN}"},
    {"authorization": f"Token {TOKEN}"},
    {"authorization": f"Bearer{TOKEN}"},
    {"authorization": f"Bearer {TOKEN[:-1]}"},
    {"authorization": f"Bearer {TOKEN}x"},
    {"authorization": f"Bearer {TOKEN.upper()}"},
    {"authorization": f"Bearer {TOKEN},{TOKEN}"},
    {"authorization": f"Bearer {TOKEN}\xe9"},
    {"authorization": f"Bearer {'x' * 8000}"},
    {"cookie": f"token={TOKEN}"},
    {"x-api-key": TOKEN},
    {"x-forwarded-for": "127.0.0.1"},
)

READING = ("/instances", "/instances/victim", "/instances/victim/logs", "/instances/victim/events",
           "/metrics", "/health/", "//health", "/docs/x", "/static-offline-docs",
           "/instances/victim/logs?token=" + TOKEN)  # fmt: skip

QUERIES = ("wait=-1", "wait=601", "wait=nan", "wait=inf", "wait=soon", "wait=", "wiat=1",
           "wait=1&follow=1")  # fmt: skip
SLICES = ("start=2147483648", "end=-2147483649", "start=x", "start=1.5", "follow=maybe",
          "follow=1&end=3", "lines=5")  # fmt: skip
FIELDS: tuple[dict[str, Any], ...] = (
    {"name": "a" * 64}, {"model_id": "m" * 513}, {"revision": "r" * 256},
    {"extra_args": ["--x"] * 65}, {"max_batch_tokens": 2**31 + 1}, {"max_batch_tokens": 0},
    {"max_concurrent_requests": 2**20 + 1}, {"port": 80}, {"port": 65536}, {"gpu_id": -1},
    {"startup_timeout_secs": 86401}, {"startup_timeout_secs": 1e400}, {"colour": "red"},
)  # fmt: skip


@pytest.mark.parametrize(("method", "path"), CHANGES)
@pytest.mark.parametrize("headers", FOREIGN)
async def test_other_hosts_and_sites_change_nothing(
    target: Probed, method: str, path: str, headers: dict[str, str]
) -> None:
    body = target.body() if path == "/instances" else None
    answer = await target.refused(method, path, headers=headers, json=body)
    assert answer.status_code in (403, 421)


@pytest.mark.parametrize("media", FORMS)
async def test_forms_change_nothing(target: Probed, media: str) -> None:
    content = json.dumps(target.body())
    headers = {"content-type": media}
    answer = await target.refused("POST", "/instances", headers=headers, content=content)
    assert answer.status_code == 415


@pytest.mark.parametrize("headers", NOBODY)
async def test_nobody_without_a_token_changes_anything(
    target: Probed, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(target.api.headers, "authorization")
    sent: Any = [(name, value.encode("latin-1")) for name, value in headers.items()]
    for method, path in CHANGES:
        answer = await target.refused(method, path, headers=sent, json=target.body())
        assert answer.status_code == 401
        assert TOKEN not in answer.text


@pytest.mark.parametrize("path", READING)
async def test_nobody_without_a_token_learns_anything(
    target: Probed, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(target.api.headers, "authorization")
    answer = await target.refused("GET", path)
    assert answer.status_code == 401
    assert "victim" not in answer.text


@pytest.mark.parametrize("query", QUERIES)
async def test_query_beyond_its_limits_changes_nothing(target: Probed, query: str) -> None:
    await target.refused("POST", f"/instances?{query}", json=target.body())
    await target.refused("POST", f"/instances/victim/start?{query}")


@pytest.mark.parametrize("query", SLICES)
async def test_slice_beyond_its_limits_is_refused(target: Probed, query: str) -> None:
    await target.refused("GET", f"/instances/victim/logs?{query}")


@pytest.mark.parametrize("fields", FIELDS)
async def test_field_beyond_its_limits_makes_no_instance(
    target: Probed, fields: dict[str, Any]
) -> None:
    content = json.dumps(target.body(**fields))
    await target.refused("POST", "/instances", content=content, headers=MEDIA)


@pytest.mark.parametrize(
    "content",
    [
        b" " * 65_537,
        b'{"name": "' + b"x" * 70_000 + b'"}',
        b"[" * 17,
        b"{}" * 2,
        b'{"name": "a", "model_id": "m", "port": ' + b"9" * 5000 + b"}",
        b'{"name": "a", "model_id": "m", "port": 1e400}',
        b'{"name": "\\ud800", "model_id": "m"}',
        b'{"name": "a", "model_id": "m", "\\ud800": 1}',
        b"",
        b"null",
    ],
)
async def test_body_beyond_its_limits_makes_no_instance(target: Probed, content: bytes) -> None:
    await target.refused("POST", "/instances", content=content, headers=MEDIA)


@pytest.mark.parametrize(
    "headers",
    [{}, {"host": "127.0.0.1:9000"}, {"origin": "http://localhost"}, {"sec-fetch-site": "none"}],
)
async def test_request_that_is_as_it_should_be_is_accepted(
    target: Probed, headers: dict[str, str]
) -> None:
    answer = await target.api.post("/instances", json=target.body(), headers=headers)
    assert answer.status_code == 201, answer.text
    assert (await target.api.delete("/instances/probe", headers=headers)).status_code == 204
    assert (await target.api.get("/instances/victim/logs?start=-1")).status_code == 200
