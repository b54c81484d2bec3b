"""The 16 cases of the matrix as a client plays them, for any Python library behind `Client`.

What a case saw is written down, right or wrong: it is held against what the same client saw of the
same server on the other way. `stack_node.js` and `stack_ruby.rb` play the same cases.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from mirror import SERVICE

Metadata = Sequence[tuple[str, str | bytes]]

SIZES = (31_415, 9, 2_653, 58_979)
"""Of gRPC's own interop cases: some smaller, some larger than a frame."""

LARGE = bytes(range(256)) * 1_062  # 271,872 octets, more than any window at first
BINARY = (bytes(range(256)), b"", b"\x00,\xff")
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"

DEADLINE_SECONDS = 0.3


class Seen(NamedTuple):
    """How a call ended and what came of it."""

    code: int
    message: str
    answers: Sequence[bytes] = ()
    initial: Iterable[tuple[str, Any]] = ()
    trailing: Iterable[tuple[str, Any]] = ()


class Duplex(Protocol):
    """A call under way."""

    async def send(self, message: bytes) -> None:
        """Send a message."""

    async def half_close(self) -> None:
        """Send no more."""

    async def read(self) -> bytes | None:
        """Return the next answer; None when the call is over."""

    async def cancel(self) -> None:
        """Give up."""

    async def seen(self) -> Seen:
        """Wait for the end of the call; the answers are not in it."""


class Client(Protocol):
    """A library's connection to a server."""

    async def ask(self, path: str, message: bytes, metadata: Metadata, compress: bool) -> Seen:
        """Make a unary call; where the library can, with both messages compressed."""

    async def open(self, path: str, metadata: Metadata, seconds: float | None) -> Duplex:
        """Start a call of any other kind."""


def shown(seen: Seen) -> dict[str, Any]:
    """Return what is compared: nothing that differs from run to run."""
    return {
        "code": seen.code,
        "message": seen.message,
        "answers": [[len(m), hashlib.sha256(m).hexdigest()[:12]] for m in seen.answers],
        "initial": [value for name, value in seen.initial if name == "x-echo"],
        "trailing": [v.hex() for name, v in seen.trailing if name == "x-echo-bin"],
    }


def path(method: str) -> str:
    """The ``:path`` of a method of the service."""
    return f"/{SERVICE}/{method}"


async def ask(
    client: Client, message: bytes, metadata: Metadata = (), compress: bool = False
) -> dict[str, Any]:
    return shown(await client.ask(path("Unary"), message, metadata, compress))


async def stream(
    client: Client, method: str, messages: Sequence[bytes], metadata: Metadata = ()
) -> dict[str, Any]:
    """Send all, half-close, and read all."""
    call = await client.open(path(method), metadata, None)
    for message in messages:
        await call.send(message)
    await call.half_close()
    answers = []
    while (answer := await call.read()) is not None:
        answers.append(answer)
    return shown((await call.seen())._replace(answers=answers))


async def ping_pong(client: Client) -> dict[str, Any]:
    call = await client.open(path("Mirror"), (), None)
    answers = []
    for size in SIZES:
        await call.send(b"p" * size)
        answers.append(await call.read() or b"")
    await call.half_close()
    assert await call.read() is None
    return shown((await call.seen())._replace(answers=answers))


async def server_first(client: Client) -> dict[str, Any]:
    call = await client.open(path("Mirror"), [("x-greet", "welcome")], None)
    answers = [await call.read() or b""]
    await call.half_close()
    assert await call.read() is None
    return shown((await call.seen())._replace(answers=answers))


async def status(client: Client, message: str) -> dict[str, Any]:
    return await ask(client, b"x", [("x-status", "9"), ("x-message-bin", message.encode())])


async def unimplemented(client: Client) -> dict[str, Any]:
    method = await client.ask(path("Nothing"), b"", (), False)
    service = await client.ask("/interop.v1.Nothing/Unary", b"", (), False)
    return {"method": shown(method), "service": shown(service)}


async def deadline(client: Client) -> dict[str, Any]:
    """Only the code: the text is the client's or the server's own, whoever is first."""
    call = await client.open(path("Mirror"), (), DEADLINE_SECONDS)
    assert await call.read() is None
    return {"code": (await call.seen()).code}


async def cancel(client: Client) -> dict[str, Any]:
    name = str(uuid.uuid4())
    call = await client.open(path("Mirror"), [("x-call", name)], None)
    await call.send(b"first")
    first = await call.read()
    await call.cancel()
    code = (await call.seen()).code
    server = await client.ask(path("Ended"), name.encode(), (), False)
    return {"first": str(first), "code": code, "server": str(server.answers[0])}


ECHO: Metadata = [("x-echo", value) for value in ("one", "two, with a comma", "one")]
ECHO_BIN: Metadata = [("x-echo-bin", value) for value in BINARY]
LAST: Metadata = [("x-status", "10"), ("x-message-bin", b"behind answers"), *ECHO_BIN]

CASES: dict[str, Callable[[Client], Awaitable[dict[str, Any]]]] = {
    "empty_unary": lambda c: ask(c, b""),
    "large_unary": lambda c: ask(c, LARGE),
    "compressed": lambda c: ask(c, LARGE, compress=True),
    "client_streaming": lambda c: stream(c, "Collect", [b"c" * size for size in SIZES]),
    "server_streaming": lambda c: stream(c, "Scatter", [b" ".join(b"%d" % s for s in SIZES)]),
    "ping_pong": ping_pong,
    "empty_stream": lambda c: stream(c, "Mirror", []),
    "server_first": server_first,
    "metadata": lambda c: ask(c, b"x", [*ECHO, *ECHO_BIN]),
    "large_metadata": lambda c: ask(c, b"x", [("x-echo", "v" * 7_000)]),
    "status": lambda c: status(c, "test status message"),
    "special_message": lambda c: status(c, SPECIAL),
    "status_behind_answers": lambda c: stream(c, "Scatter", [b"3 1"], LAST),
    "unimplemented": unimplemented,
    "deadline": deadline,
    "cancel": cancel,
}


async def play(client: Client) -> None:
    """Play all cases and print what was seen, one line of JSON a case."""
    for case, run in CASES.items():
        try:
            seen = await run(client)
        except Exception as error:  # a library's own refusal is a finding like any other
            seen = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps({case: seen}, sort_keys=True), flush=True)
