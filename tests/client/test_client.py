from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest
from fake_tei import fake_tei
from multiplexer import multiplexer

from tei_manager.client import Client
from tei_manager.tokens import TokenFile, Tokens

pytestmark = pytest.mark.asyncio


def many(address: str) -> list[list[float]]:
    with Client(address, timeout=10) as client:
        return list(client.embed_many("a", ["one", "three"]))


def one(address: str, name: str) -> list[float]:
    with Client(address, timeout=10) as client:
        return client.embed(name, "three")


async def test_a_text_and_a_stream_of_texts_have_the_same_embeddings() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        address = f"127.0.0.1:{mux.port}"
        vectors = await asyncio.to_thread(many, address)
        assert vectors[1] == await asyncio.to_thread(one, address, "a")
        assert vectors[0] != vectors[1]


async def test_a_token_goes_with_every_call(tmp_path: Path) -> None:
    token = "correct-horse-battery-staple"
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    tokens = Tokens(TokenFile(tmp_path / "token"))

    def ask(address: str) -> int:
        with Client(address, timeout=10, token=token) as client:
            return len([client.embed("a", "one"), *client.embed_many("a", ["one", "three"])])

    async with fake_tei() as tei, multiplexer(("a", tei.port), tokens=tokens) as mux:
        assert await asyncio.to_thread(ask, f"127.0.0.1:{mux.port}") == 3
        with pytest.raises(grpc.RpcError, match="authorization: Bearer TOKEN"):
            await asyncio.to_thread(one, f"127.0.0.1:{mux.port}", "a")


async def test_the_calls_status_comes_out_as_it_is() -> None:
    async with fake_tei() as tei, multiplexer(("a", tei.port)) as mux:
        with pytest.raises(grpc.RpcError, match="Instance 'b' not found"):
            await asyncio.to_thread(one, f"127.0.0.1:{mux.port}", "b")
