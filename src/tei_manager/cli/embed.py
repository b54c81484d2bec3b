"""``tei-manager embed``: one look at an embedding, from the shell."""

from __future__ import annotations

import json
import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tei_manager.cli.control import NOT_FOUND, UNREACHABLE, AsJson, fail, first_token
from tei_manager.cli.trust import trust

if TYPE_CHECKING:
    import grpc

    from tei_manager.client import Client

Target = Annotated[
    str,
    typer.Option(
        envvar="TEI_MANAGER_GRPC",
        help="HOST:PORT of the multiplexer, https://HOST:PORT with TLS, or unix:PATH.",
    ),
]

TokenFile = Annotated[
    Path | None,
    typer.Option(
        envvar="TEI_MANAGER_GRPC_TOKEN_FILE",
        help="File with the multiplexer's token on its first line.",
    ),
]

# Numbers of a vector that are shown; a look, not a listing.
_SHOWN = 6


def default_target() -> str:
    """Return where the multiplexer is, unless a flag says so."""
    host = os.environ.get("TEI_MANAGER_GRPC_HOST", "127.0.0.1")
    return f"{host}:{os.environ.get('TEI_MANAGER_GRPC_PORT', '9001')}"


def reach(target: str) -> tuple[str, grpc.ChannelCredentials | None]:
    """Return a `Target` as gRPC wants it, and what TLS needs; ``None`` where there is none.

    Raises:
        CertificateRefused: A file of the command's flags cannot be read.
    """
    address = target.removeprefix("https://")
    return address, trust().credentials() if address != target else None


def embed(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to embed.")],
    instance: Annotated[str, typer.Option("--instance", "-i", help="Name of the instance.")],
    target: Target = default_target(),
    token_file: TokenFile = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each text.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Embed texts through the multiplexer and show the vectors' first numbers."""
    import grpc

    from tei_manager.client import Client

    address, credentials = reach(target)
    token = first_token(token_file) if token_file else ""
    with Client(address, timeout, credentials, token) as client:
        try:
            rows = [_embed_one(client, instance, text) for text in texts]
        except grpc.RpcError as error:
            _fail(error)
    if as_json:
        print(json.dumps(rows))
        return
    for row in rows:
        first = ", ".join(f"{number:+.6f}" for number in row["embedding"][:_SHOWN])
        print(f"{row['text']!r}: {len(row['embedding'])} numbers [{first}, …]")
        print(f"    length {row['norm']:.6f}, {row['milliseconds']:.2f} ms")


def _embed_one(client: Client, instance: str, text: str) -> dict[str, Any]:
    begin = time.perf_counter()
    vector = client.embed(instance, text)
    elapsed = time.perf_counter() - begin
    norm = math.sqrt(math.fsum(number * number for number in vector))
    return {"text": text, "milliseconds": elapsed * 1000, "norm": norm, "embedding": vector}


def _fail(error: Any) -> None:
    """End with the call's status as one sentence."""
    code = error.code().name
    exits = {"NOT_FOUND": NOT_FOUND, "UNAVAILABLE": UNREACHABLE}
    hint = "; name its file with --token-file" if code == "UNAUTHENTICATED" else ""
    fail(f"{error.details()}{hint} ({code})", exits.get(code, 1))
