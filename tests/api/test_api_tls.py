"""The control API over TLS: who comes in, what the others see, and new files while it answers."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from authority import EXPIRED, Authority
from control_plane import running
from multiplexer import until

from tei_manager.api.server import _api
from tei_manager.tls import Certificates, Tls

pytestmark = pytest.mark.asyncio

EXPIRY = "tei_manager_api_tls_certificate_expiry_timestamp_seconds"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@asynccontextmanager
async def served(folder: Path, tls: Tls) -> AsyncIterator[tuple[int, Certificates]]:
    """The API of a manager without instances; yields its port."""
    certificates = Certificates(tls, "http/1.1")
    async with running(folder) as rig:
        listener = socket.create_server(("127.0.0.1", 0))
        async with _api(rig.manager, listener, certificates):
            yield listener.getsockname()[1], certificates


def client(port: int, context: ssl.SSLContext) -> httpx.AsyncClient:
    context.set_alpn_protocols(["http/1.1"])
    url = f"https://localhost:{port}"
    return httpx.AsyncClient(base_url=url, verify=context, trust_env=False, timeout=30)


async def test_the_api_answers_over_tls_and_counts_when_its_certificate_expires(
    authority: Authority,
) -> None:
    async with (
        served(authority.folder, authority.server()) as (port, certificates),
        client(port, authority.client()) as api,
    ):
        assert (await api.get("/instances")).json() == []
        lines = (await api.get("/metrics")).text.splitlines()
        (line,) = [line for line in lines if line.startswith(EXPIRY)]
        assert float(line.split()[1]) == certificates.expires


async def test_http_without_tls_is_not_answered(authority: Authority) -> None:
    async with served(authority.folder, authority.server()) as (port, _):
        with pytest.raises(httpx.TransportError):
            async with httpx.AsyncClient(trust_env=False) as api:
                await api.get(f"http://localhost:{port}/health")


async def test_only_clients_of_the_ca_with_an_allowed_name_come_in(authority: Authority) -> None:
    tls = authority.mutual("ops.example")
    async with served(authority.folder, tls) as (port, _):
        for pair in (None, authority.issue("client", "ops.example", **EXPIRED)):
            with pytest.raises(httpx.TransportError):
                async with client(port, authority.client(pair)) as api:
                    await api.get("/instances")
        other = authority.client(authority.issue("client", "ops.example.evil"))
        async with client(port, other) as api:
            answer = await api.get("/instances")
            assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
            assert "tls_client_names" in answer.json()["error"]
        ours = authority.client(authority.issue("client", "ops.example"))
        async with client(port, ours) as api:
            assert (await api.get("/instances")).status_code == 200


async def test_five_rotations_while_it_is_asked_lose_no_answer(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.watched.LOOK_SECONDS", 0.01)
    statuses: list[int] = []
    over = asyncio.Event()

    async def ask(port: int) -> None:
        while not over.is_set():
            async with client(port, authority.client()) as api:
                statuses.append((await api.get("/health")).status_code)

    async with (
        served(authority.folder, authority.server()) as (port, certificates),
        asyncio.TaskGroup() as tasks,
    ):
        for _ in range(2):
            tasks.create_task(ask(port))
        for number in range(1, 6):
            authority.server()
            await rotated(certificates, number, statuses)
        over.set()
    assert set(statuses) == {200}


async def rotated(certificates: Certificates, number: int, statuses: list[int]) -> None:
    """Wait until a new pair is taken up, and for answers that began after that."""
    await until(lambda: certificates.reloads["taken"] == number, limit=30)
    goal = len(statuses) + 4
    await until(lambda: len(statuses) >= goal, limit=30)


async def test_a_slow_hand_shake_is_ended(authority: Authority) -> None:
    async with served(authority.folder, authority.server(handshake_secs=0.3)) as (port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
