"""What the API refuses before a handler sees it: other hosts, other sites, other bodies."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tei_manager.api.guard import MAX_BODY, Guard

pytestmark = pytest.mark.asyncio


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def _client(host: str = "localhost:9000") -> httpx.AsyncClient:
    routes = [Route(path, _echo, methods=["GET", "POST"]) for path in ("/x", "/health")]
    guard = Guard(Starlette(routes=routes), hosts=["tei.example"])
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=f"http://{host}")


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9000", "[::1]:9000", "tei.example:80"])
async def test_hosts_of_this_api_are_let_in(host: str) -> None:
    async with _client() as client:
        assert (await client.get("/x", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "[::", "", "127.0.0.2"])
async def test_other_hosts_are_misdirected_unless_they_ask_for_health(host: str) -> None:
    async with _client() as client:
        answer = await client.get("/x", headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "MISDIRECTED_REQUEST")
        assert (await client.get("/health", headers={"host": host})).status_code == 200


async def test_another_web_site_cannot_change_anything() -> None:
    async with _client() as client:
        foreign = await client.post("/x", headers={"origin": "http://evil.example"})
        assert foreign.status_code == 403
        own = await client.post("/x", headers={"origin": "http://localhost:9000"})
        assert own.status_code == 200


@pytest.mark.parametrize(
    "media", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"]
)
async def test_body_that_a_form_could_send_is_refused(media: str) -> None:
    async with _client() as client:
        answer = await client.post("/x", content="{}", headers={"content-type": media})
        assert answer.status_code == 415


async def test_post_without_a_body_needs_no_content_type() -> None:
    async with _client() as client:
        assert (await client.post("/x")).status_code == 200


async def test_json_body_is_passed_on_whole() -> None:
    async with _client() as client:
        headers = {"content-type": "application/json; charset=utf-8"}
        body = b" " * MAX_BODY
        assert (await client.post("/x", content=body, headers=headers)).content == body


async def test_body_over_the_limit_is_refused_declared_or_not() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(2):
            yield b" " * MAX_BODY

    headers = {"content-type": "application/json"}
    async with _client() as client:
        declared = await client.post("/x", content=b" " * (MAX_BODY + 1), headers=headers)
        streamed = await client.post("/x", content=chunks(), headers=headers)
        assert (declared.status_code, streamed.status_code) == (413, 413)
        assert streamed.json()["code"] == "CONTENT_TOO_LARGE"
