"""Clients that come by the Unix socket: served as those of the port, within the same limits."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from authority import Authority
from fake_tei import fake_tei
from http2_peer import connect
from multiplexer import CHANNEL_OPTIONS, embed, multiplexer, path, until

pytestmark = pytest.mark.asyncio


def channel(file: Path) -> Any:
    return grpc.aio.insecure_channel(f"unix:{file}", options=CHANNEL_OPTIONS)


async def test_a_call_by_the_unix_socket_is_answered(tmp_path: Path) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), unix=tmp_path / "s") as mux,
        channel(tmp_path / "s") as client,
    ):
        assert await client.unary_unary(path("Embed"))(embed(), timeout=10)
        assert await mux.channel().unary_unary(path("Embed"))(embed(), timeout=10)
        assert mux.switch.counters.client_connections == 2
        large = client.unary_unary(path("EmbedAll"))
        assert len(await large(embed("flood 1 10000000"), timeout=60)) >= 10_000_000
        await mux.settled()


async def test_beside_a_port_with_tls_the_unix_socket_is_plain(tmp_path: Path) -> None:
    async with (
        fake_tei() as tei,
        multiplexer(("a", tei.port), unix=tmp_path / "s", tls=Authority(tmp_path).mutual()) as mux,
        channel(tmp_path / "s") as client,
    ):
        assert await client.unary_unary(path("Embed"))(embed(), timeout=10)
        assert mux.switch.counters.rejected == {}


async def test_it_counts_for_the_limit_of_all_and_not_for_that_of_an_address(
    tmp_path: Path,
) -> None:
    async with multiplexer(
        unix=tmp_path / "s", max_connections=3, max_connections_of_address=1
    ) as mux:
        streams = [await asyncio.open_unix_connection(str(tmp_path / "s")) for _ in range(3)]
        await until(lambda: mux.switch.counters.client_connections == 3)
        async with connect(mux.port) as one_too_many:
            await one_too_many.closed()
        assert mux.switch.counters.rejected == {"too_many_connections": 1}
        for _, writer in streams:
            writer.close()
        await until(lambda: not mux.switch.counters.client_connections)


async def test_the_command_listens_there_and_removes_its_file(tmp_path: Path) -> None:
    file = tmp_path / "s"
    async with fake_tei() as tei:
        flags = ("--listen", "127.0.0.1:0", "--route", f"a=127.0.0.1:{tei.port}", "--uds", file)
        command = [sys.executable, "-m", "tei_manager", "mux", *map(str, flags)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: ASYNC220
        try:
            assert process.stdout is not None
            await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), 60)
            async with channel(file) as client:
                assert await client.unary_unary(path("Embed"))(embed(), timeout=10)
            process.terminate()
            assert await asyncio.to_thread(process.wait, 30) == 0
            assert not file.exists()
        finally:
            process.kill()
            process.communicate()
