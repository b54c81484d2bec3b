"""One client, the multiplexer and one scripted instance ``a``: what a rule's test needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import h2.events
from http2_peer import Peer, Scripted, answer_all, connect, fields, scripted
from multiplexer import Multiplexer, embed, framed, multiplexer, path

Headers = list[tuple[str, str]]
Script = Callable[[Peer, int], Awaitable[None]]

PSEUDO = ((":method", "POST"), (":scheme", "http"), (":path", path("Embed")))
"""How the header list of a call of Embed begins."""


class Between(NamedTuple):
    """The three of them."""

    instance: Scripted
    mux: Multiplexer
    client: Peer

    def requests(self) -> list[Headers]:
        """The header lists of all calls that the instance got, in order."""
        kind = h2.events.RequestReceived
        return [fields(e) for peer in self.instance.peers for e in peer.seen if isinstance(e, kind)]

    def answers(self) -> list[Headers]:
        """The header lists that the client got, trailers among them, in order."""
        kinds = h2.events.ResponseReceived | h2.events.TrailersReceived
        return [fields(event) for event in self.client.seen if isinstance(event, kinds)]

    def received(self) -> bytes:
        """All octets that the instance got in DATA, in order."""
        kind = h2.events.DataReceived
        events = [e for peer in self.instance.peers for e in peer.seen if isinstance(e, kind)]
        return b"".join(event.data or b"" for event in events)

    async def ask(
        self,
        *headers: tuple[str, str],
        method: str = "Embed",
        data: bytes = framed(embed()),
        end: bool = True,
    ) -> tuple[int, str]:
        """Make a call on the client's one connection; returns its status and message."""
        call = self.client.request(path(method), *headers, data=data, end=end)
        await self.client.flush()
        return await self.client.status(call, 10)

    async def ask_as(self, headers: list[tuple[str, str]], data: bytes = framed(embed())) -> int:
        """Start a call with exactly these fields and its message; returns the stream's id."""
        call = self.client.h2.get_next_available_stream_id()
        self.client.h2.send_headers(call, headers)
        self.client.h2.send_data(call, data, end_stream=True)
        await self.client.flush()
        return call


async def serve(peer: Peer, _number: int) -> None:
    """The script of an instance without vices."""
    await peer.start()
    await answer_all(peer)


@asynccontextmanager
async def between(script: Script = serve, **options: Any) -> AsyncIterator[Between]:
    """Run all three; at the end the multiplexer must hold nothing of any call."""
    async with scripted(script) as instance, multiplexer(("a", instance.port), **options) as mux:
        async with connect(mux.port) as client:
            yield Between(instance, mux, client)
        await mux.settled(10)
