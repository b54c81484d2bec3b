"""TLS on the port: calls, large messages, deaf clients, drains and rotations go as without it."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from pathlib import Path
from typing import Any

import h2.events
import pytest
from authority import Authority, swap
from fake_tei import fake_tei
from http2_peer import Peer, connect
from multiplexer import embed, framed, multiplexer, path, until

from tei_manager.mux import endpoint
from tei_manager.tls import Certificates
from tei_manager.wire import frames

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.asyncio


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_call_over_tls_is_answered_and_counted(authority: Authority) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.server()) as mux,
        authority.channel(mux.port) as channel,
    ):
        assert await channel.unary_unary(path("Embed"))(embed(), timeout=10)
        report = mux.switch.counters.to_json()
        assert report["responses"] == {"embed": {"0": 1}}
        assert report["tls_expires"] == mux.certificates.expires
        assert report["rejected"] == {}
        await mux.settled()


async def test_a_client_with_a_name_that_is_allowed_comes_in(authority: Authority) -> None:
    tls = authority.mutual("client.example", "other.example")
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=tls) as mux,
        authority.channel(mux.port, authority.issue("client", "client.example")) as channel,
    ):
        assert await channel.unary_unary(path("Embed"))(embed(), timeout=10)


class Caller:
    """Makes calls until it is told to stop: on one channel, or on a new one for each call."""

    def __init__(self, authority: Authority, port: int, keep: bool) -> None:
        self._authority, self._port, self._keep = authority, port, keep
        self.good = 0
        self._stopped = False

    async def run(self) -> None:
        while not self._stopped:
            async with self._authority.channel(self._port) as channel:
                call = channel.unary_unary(path("Embed"))
                await self._call(call)
                while self._keep and not self._stopped:
                    await self._call(call)

    async def _call(self, call: Any) -> None:
        await call(embed(), timeout=30)
        self.good += 1

    def stop(self) -> None:
        self._stopped = True


async def rotate(authority: Authority, certificates: Certificates, callers: list[Caller]) -> None:
    """Write a new pair; return when it is taken up and each caller has had answers since."""
    taken = certificates.reloads["taken"]
    authority.server()
    await until(lambda: certificates.reloads["taken"] == taken + 1, limit=30)
    goals = [caller.good + 2 for caller in callers]  # the first may have begun before
    pairs = list(zip(callers, goals, strict=True))
    await until(lambda: all(caller.good >= goal for caller, goal in pairs), limit=30)


async def test_twenty_rotations_under_load_lose_no_call(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tei_manager.watched.LOOK_SECONDS", 0.01)
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.server()) as mux,
    ):
        callers = [Caller(authority, mux.port, keep) for keep in (True, True, False, False)]
        async with asyncio.TaskGroup() as running:
            for caller in callers:
                running.create_task(caller.run())
            for _ in range(20):
                await rotate(authority, mux.certificates, callers)
            for caller in callers:
                caller.stop()
        good = [caller.good for caller in callers]
        logger.info("calls on kept channels and on new ones: %s", good)
        report = mux.switch.counters.to_json()
        assert report["responses"] == {"embed": {"0": sum(good)}}
        assert report["rejected"] == {}
        assert report["tls_reloads"]["taken"] == 20


async def test_a_client_ca_that_is_taken_out_is_out_for_those_who_come_later(
    authority: Authority,
) -> None:
    """Whoever is connected goes on with what it shook hands on."""
    ours = authority.client(authority.issue("client", "client.example"))
    async with multiplexer(tls=authority.mutual()) as mux, connect(mux.port, ours) as early:
        await early.next(h2.events.RemoteSettingsChanged)
        swap(authority.file, Authority(authority.folder, "next").file.read_bytes())
        mux.certificates.refresh()
        assert mux.certificates.reloads == {"taken": 1, "refused": 0}
        call = early.request(path("Embed"), data=framed(embed()), end=True)
        await early.flush()
        assert (await early.status(call))[0] == 5
        with pytest.raises((ConnectionError, ssl.SSLError)):
            async with connect(mux.port, ours) as late:
                await late.next(h2.events.RemoteSettingsChanged)
        assert mux.switch.counters.rejected == {"tls_client_certificate": 1}


async def test_a_large_question_and_an_answer_of_64_mb_pass(authority: Authority) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.server()) as mux,
        authority.channel(mux.port) as channel,
    ):
        assert await channel.unary_unary(path("Embed"))(embed("x" * (8 << 20)), timeout=60)
        ask = channel.unary_unary(path("EmbedAll"))
        assert len(await ask(embed(f"flood 1 {64 << 20}"), timeout=100)) >= 64 << 20
        await mux.settled(20)


async def open_wide_and_ask_for_much(client: Peer) -> None:
    """Open every window, ask for 100 MB, and never read again."""
    sock: socket.socket = client.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    wide = frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})
    client.writer.write(wide + frames.window_update(0, 1 << 30))
    client.request(path("EmbedAll"), data=framed(embed("flood 100 1000000")), end=True)
    await client.flush()


async def test_a_deaf_client_holds_little_and_is_cut_while_others_go_on(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its windows are open: what stops the flow is its socket, as it is seen through TLS."""
    monkeypatch.setattr(endpoint, "CLOSE_SECONDS", 0.2)
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.server(), send_timeout_secs=1) as mux,
        authority.channel(mux.port) as channel,
        connect(mux.port, authority.client()) as deaf,
    ):
        ask = channel.unary_unary(path("Embed"))
        await open_wide_and_ask_for_much(deaf)
        await until(lambda: any(not it.connection.writable for it in mux.switch.endpoints))
        for _ in range(50):
            await ask(embed(), timeout=10)
        assert mux.switch.pool.queued <= 2 << 20
        await until(lambda: mux.switch.counters.client_connections == 1, limit=30)
        assert mux.switch.backend_traffic.received < 16 << 20  # the kernel takes some
        await ask(embed(), timeout=10)
        await mux.settled()


async def test_draining_loses_no_call_and_ends_well_who_is_shaking_hands(
    authority: Authority,
) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), tls=authority.server()) as mux,
        authority.channel(mux.port) as channel,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", mux.port)
        call = asyncio.ensure_future(channel.unary_unary(path("Embed"))(embed("hold"), timeout=30))
        await tei.call()  # by a later connection: the earlier one is accepted, too
        mux.worker.drain()
        await writer.start_tls(authority.client(), server_hostname="localhost")
        goodbye = b"\x7f\xff\xff\xff" + bytes(4)  # all streams so far, NO_ERROR
        await asyncio.wait_for(reader.readuntil(goodbye), 10)
        writer.close()
        tei.release.set()
        assert await call
