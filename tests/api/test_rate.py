"""How many requests a client may send, and who is not counted."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from control_plane import running
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tei_manager.api import rate
from tei_manager.api.app import create_app
from tei_manager.api.rate import BURST_SECONDS, Rate

pytestmark = pytest.mark.asyncio

PER_SECOND = 4
BURST = int(PER_SECOND * BURST_SECONDS)


class Limited:
    """An application behind a limit, and a clock that stands still until it is told otherwise."""

    def __init__(self, per_second: float = PER_SECOND) -> None:
        async def answer(_: Request) -> PlainTextResponse:
            return PlainTextResponse("")

        paths = ("/instances", "/health", "/metrics")
        routes = [Route(path, answer, methods=["GET", "POST"]) for path in paths]
        self.now = 1e6
        self._app = Rate(Starlette(routes=routes), per_second, lambda: self.now)

    async def ask(self, address: str, path: str = "/instances") -> httpx.Response:
        transport = httpx.ASGITransport(self._app, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            return await client.get(path)

    async def good(self, count: int, address: str, path: str = "/instances") -> int:
        answers = [(await self.ask(address, path)).status_code for _ in range(count)]
        return answers.count(200)


async def test_burst_is_let_in_and_then_the_rate() -> None:
    limited = Limited()
    assert await limited.good(BURST + 5, "10.0.0.1") == BURST
    limited.now += 1
    assert await limited.good(BURST, "10.0.0.1") == PER_SECOND
    limited.now += BURST_SECONDS
    assert await limited.good(BURST + 5, "10.0.0.1") == BURST


async def test_refusal_is_a_problem_that_says_when_to_try_again() -> None:
    limited = Limited(0.5)
    assert await limited.good(3, "10.0.0.1") == 2
    refused = await limited.ask("10.0.0.1")
    assert refused.status_code == 429
    assert refused.json()["code"] == "TOO_MANY_REQUESTS"
    assert refused.json()["error"] == "More than 0.5 requests a second; try again in 1 s"
    assert refused.headers["retry-after"] == "1"
    limited.now += 1
    assert await limited.good(1, "10.0.0.1") == 1


async def test_each_client_has_its_own_and_a_network_of_ipv6_is_one() -> None:
    limited = Limited()
    assert await limited.good(BURST + 1, "10.0.0.1") == BURST
    assert await limited.good(1, "10.0.0.2") == 1
    assert await limited.good(1, "::ffff:10.0.0.1") == 0
    assert await limited.good(BURST, "2001:db8::1") == BURST
    assert await limited.good(1, "2001:db8::2") == 0
    assert await limited.good(1, "2001:db8:0:1::2") == 1


async def test_scraper_and_probe_are_answered_whatever_else_their_address_asks_for() -> None:
    limited = Limited()
    assert await limited.good(BURST + 1, "10.0.0.1") == BURST
    assert await limited.good(1, "10.0.0.1", "/metrics") == 1
    assert await limited.good(BURST, "10.0.0.1", "/health") == BURST - 1


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
async def test_this_machine_is_not_limited(address: str) -> None:
    assert await Limited().good(3 * BURST, address) == 3 * BURST


@pytest.mark.parametrize(("per_second", "refused"), [(0.001, BURST + 1), (0, 0)])
async def test_setting_limits_the_api_and_0_does_not(
    tmp_path: Path, per_second: float, refused: int
) -> None:
    api = {"port": 0, "requests_per_second": per_second}
    async with running(tmp_path, api=api) as rig:
        app = httpx.ASGITransport(create_app(rig.manager), client=("10.0.0.1", 1))
        async with httpx.AsyncClient(transport=app, base_url="http://localhost") as client:
            answers = [await client.get("/instances") for _ in range(BURST + 2)]
            assert [answer.status_code for answer in answers].count(429) == refused
            assert (await client.get("/metrics")).status_code == 200


async def test_clients_beyond_what_is_remembered_cost_no_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rate, "MAX_CLIENTS", 2)
    limited = Limited()
    assert await limited.good(BURST + 1, "10.0.0.1") == BURST
    for last in (2, 3):
        assert await limited.good(BURST + 1, f"10.0.0.{last}") == BURST
    assert await limited.good(1, "10.0.0.3") == 0
    assert await limited.good(1, "10.0.0.1") == 1, "forgotten"
