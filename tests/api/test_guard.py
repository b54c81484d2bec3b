"""Whom the API refuses before a handler sees the request: other hosts, other sites, forms."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tei_manager.api.guard import MAX_HEADER_OCTETS, MAX_HEADERS, Guard

pytestmark = pytest.mark.asyncio

METHODS = ["GET", "POST", "OPTIONS"]


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def _client(host: str = "localhost:9000") -> httpx.AsyncClient:
    routes = [Route(path, _echo, methods=METHODS) for path in ("/x", "/health")]
    guard = Guard(
        Starlette(routes=routes), hosts=["Tei.example"], origins=["https://tools.example"]
    )
    return httpx.AsyncClient(transport=httpx.ASGITransport(guard), base_url=f"http://{host}")


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:9000", "[::1]:9000", "tei.example:80", "LOCALHOST"]
)
async def test_hosts_of_this_api_are_let_in(host: str) -> None:
    async with _client() as client:
        assert (await client.get("/x", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "[::", "", "127.0.0.2", "localhost@evil.example",
     "evil.example@localhost", "localhost:9000/", "localhost, evil.example", "localhost#"],
)  # fmt: skip
async def test_other_hosts_are_misdirected_unless_they_ask_for_health(host: str) -> None:
    async with _client() as client:
        answer = await client.get("/x", headers={"host": host})
        assert (answer.status_code, answer.json()["code"]) == (421, "MISDIRECTED_REQUEST")
        assert (await client.get("/health", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://[::"},
        {"origin": "http://localhost:3000"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://localhost:9000", "sec-fetch-site": "cross-site"},
    ],
)
async def test_another_web_site_can_neither_change_anything_nor_ask_whether_it_may(
    headers: dict[str, str],
) -> None:
    async with _client() as client:
        assert (await client.post("/x", headers=headers)).status_code == 403
        assert (await client.options("/x", headers=headers)).status_code == 403
        assert (await client.get("/x", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://localhost:9000"},
        {"origin": "http://localhost:9000", "sec-fetch-site": "same-origin"},
        {"sec-fetch-site": "none"},
        {"origin": "https://tools.example", "sec-fetch-site": "cross-site"},
        {},
    ],
)
async def test_own_pages_allowed_sites_and_programs_are_let_in(headers: dict[str, str]) -> None:
    async with _client() as client:
        assert (await client.post("/x", headers=headers)).status_code == 200


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


async def test_too_many_or_too_large_headers_are_refused() -> None:
    async with _client() as client:
        few = {f"x-{number}": "1" for number in range(MAX_HEADERS - 10)}
        assert (await client.get("/x", headers=few)).status_code == 200
        many = {f"x-{number}": "1" for number in range(MAX_HEADERS)}
        assert (await client.get("/x", headers=many)).status_code == 431
        large = {"x": "1" * MAX_HEADER_OCTETS}
        assert (await client.get("/x", headers=large)).status_code == 431


async def test_head_is_answered_wherever_get_is() -> None:
    async with _client() as client:
        answer = await client.head("/health")
        assert (answer.status_code, answer.content) == (200, b"")
