"""Bodies: read whole, within limits of size, depth and time, or not at all."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.types import Message

from tei_manager.api import bodies
from tei_manager.api.bodies import MAX_BODY, MAX_DEPTH, Bodies, depth

ALSO = {"content-type": "application/json"}


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def _client() -> httpx.AsyncClient:
    app = Bodies(Starlette(routes=[Route("/x", _echo, methods=["POST"])]))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def _post(content: Any) -> httpx.Response:
    async with _client() as client:
        return await client.post("/x", content=content, headers=ALSO)


@pytest.mark.asyncio
async def test_body_at_the_limit_is_passed_on_whole() -> None:
    body = b" " * MAX_BODY
    assert (await _post(body)).content == body


@pytest.mark.asyncio
async def test_body_over_the_limit_is_refused_declared_or_not() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b" " * MAX_BODY

    for body in (b" " * (MAX_BODY + 1), chunks()):
        answer = await _post(body)
        assert (answer.status_code, answer.json()["code"]) == (413, "CONTENT_TOO_LARGE")
        assert answer.headers["connection"] == "close"


@pytest.mark.asyncio
async def test_only_as_much_as_makes_sense_is_dropped_of_a_body_without_end() -> None:
    taken = 0

    async def endless() -> Message:
        nonlocal taken
        taken += 1
        return {"type": "http.request", "body": b" " * MAX_BODY, "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Bodies(Starlette())({"type": "http", "headers": []}, endless, send)
    assert sent[0]["status"] == 413
    assert taken <= 2 + bodies.DISCARDED // MAX_BODY


@pytest.mark.asyncio
async def test_body_that_does_not_come_is_refused_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.05)

    async def stalls() -> AsyncIterator[bytes]:
        import asyncio

        yield b"{"
        await asyncio.Event().wait()

    assert (await _post(stalls())).status_code == 408


@pytest.mark.asyncio
async def test_client_that_goes_away_in_its_body_has_asked_for_nothing() -> None:
    messages: list[Message] = [
        {"type": "http.request", "body": b"{}", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def never(*_: Any) -> None:
        raise AssertionError("the request was passed on")

    await Bodies(never)({"type": "http", "headers": []}, receive, never)
    assert messages == []


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "body",
    [b"[" * (MAX_DEPTH + 1), b'{"a":' * 17 + b"1" + b"}" * 17, b"[" * 60_000, b"\xff{}",
     '{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-16-le"), '{"a": 1}'.encode("utf-32")],
)  # fmt: skip
async def test_body_that_must_not_be_parsed_is_refused_before_it_is(body: bytes) -> None:
    answer = await _post(body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_JSON")


JSON = st.recursive(
    st.none() | st.text('"\\[]{} a'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('"\\[]{}'), inner),
    max_leaves=20,
)


def _true_depth(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_true_depth, value.values()), default=0)
    return 1 + max(map(_true_depth, value), default=0) if isinstance(value, list) else 0


@settings(deadline=None)
@given(JSON)
def test_depth_counts_brackets_outside_of_texts_only(value: Any) -> None:
    assert depth(json.dumps(value).encode()) == _true_depth(value)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_depth_of_any_bytes_is_a_number(body: bytes) -> None:
    assert 0 <= depth(body) <= len(body)
