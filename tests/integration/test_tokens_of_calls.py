"""Tokens of port 9001 under a real manager: handed over by name, taken up without a call lost."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import grpc.aio
import psutil
import pytest
from fake_tei import fake_tei
from manager_process import Home, calling, connect, failures, more
from multiplexer import embed, path

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

OLD, NEW = "correct-horse-battery-staple", "another-horse-another-staple"


class WithToken:
    """A channel whose calls send a token."""

    def __init__(self, address: str, token: str) -> None:
        self._channel, self._sent = connect(address), (("authorization", f"Bearer {token}"),)

    async def __aenter__(self) -> WithToken:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def unary_unary(self, method: str) -> Any:
        call = self._channel.unary_unary(method)
        return lambda request, timeout: call(request, timeout=timeout, metadata=self._sent)


def write(folder: Path, *tokens: str) -> None:
    fresh = folder / "fresh"
    fresh.write_text("\n".join(tokens))
    fresh.chmod(0o600)
    fresh.rename(folder / "callers")


async def status(address: str, token: str) -> str:
    async with WithToken(address, token) as channel:
        try:
            await channel.unary_unary(path("Embed"))(embed("four", "stub"), timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


async def test_new_token_is_taken_up_by_all_workers_and_no_secret_is_shown(
    tmp_path: Path, homes: list[Home]
) -> None:
    write(tmp_path, OLD)
    async with fake_tei() as tei:
        asked = f'token_file = "{tmp_path}/callers"'
        homes.append(here := Home(tmp_path, tei.port, grpc_more=asked))
        async with here.manager() as manager:
            await manager.all_run()
            async with calling(
                here.address, "stub", "fake", connect=lambda at: WithToken(at, OLD)
            ) as callers:
                assert await status(here.address, NEW) == "UNAUTHENTICATED"
                write(tmp_path, OLD, NEW)
                manager.process.send_signal(signal.SIGHUP)
                good = 0
                while good < 20:  # in a row, so that both workers have been asked
                    good = good + 1 if await status(here.address, NEW) == "OK" else 0
                await more(callers)
            assert failures(callers) == []
            shown = [process.cmdline() for process in map(psutil.Process, here.workers())]
            shown.append([(await manager.get("/metrics")).text, *manager.lines])
            logs = [file.read_text() for file in (tmp_path / "logs").iterdir()]
            assert not any(token in json.dumps([shown, logs]) for token in (OLD, NEW))
            assert 'rejected_total{reason="unauthenticated"}' in shown[-1][0]
