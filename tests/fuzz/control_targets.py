"""The fuzz targets of the control plane: requests to the API, settings files and state files.

Z7 feeds a request to the application as it is served, with all that stands in front of it, before
a registry that only looks at what it would have to make. Z8 feeds a settings file, or a state file
that was good before octets of it were changed.
"""

from __future__ import annotations

import asyncio
import functools
import json
import re
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn
from urllib.parse import unquote

import h11

from tei_manager.api.app import create_app
from tei_manager.errors import (
    InstanceExists,
    InstanceNotFound,
    InvalidSettings,
    ModelNotFound,
    StateFailed,
)
from tei_manager.manager.instance import Desired, Origin, Record
from tei_manager.manager.launcher import arguments
from tei_manager.manager.store import Store
from tei_manager.settings import MANAGED_FLAGS, InstanceSpec, Settings, load

FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-")
"""Where Z8 puts its files; removed when the process ends."""

SPECS = [
    InstanceSpec(name="a", model_id="BAAI/bge-small-en-v1.5", pooling="cls"),
    InstanceSpec(name="b-2", model_id="/srv/model", extra_args=("--auto-truncate",), gpu_id=1),
    InstanceSpec(name="far", model_id="m", backend="external", address="127.0.0.1:8080"),
]

_WORD = re.compile(r"--[a-z0-9][a-z0-9-]*(=.*)?", re.DOTALL)


class _Registry:
    """Looks at what it should make, and then has it already."""

    settings = Settings()
    backlog = SimpleNamespace(waits=False)

    def statuses(self) -> list[Any]:
        return []

    def get(self, name: str) -> NoReturn:
        raise InstanceNotFound(name)

    async def delete(self, name: str) -> NoReturn:
        raise InstanceNotFound(name)

    async def create(self, spec: InstanceSpec) -> NoReturn:
        assert re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", spec.name)
        words = arguments(spec, 8081, 9100)
        assert all(_WORD.fullmatch(word) for word in words), words
        flags = [word.partition("=")[0] for word in words]
        assert all(flags.count(flag) <= 1 for flag in MANAGED_FLAGS), flags
        assert spec.api_key_file is None, "no folder is open to requests"
        assert not spec.model_id.startswith(("/", "~", ".", "-")), "nor is one for models"
        raise InstanceExists(spec.name)


class _Models:
    """Knows of none."""

    async def all(self) -> list[Any]:
        return []

    def __getattr__(self, name: str) -> Any:
        async def unknown(model_id: str, *_: Any) -> NoReturn:
            raise ModelNotFound(model_id)

        return unknown


@functools.cache
def _served() -> tuple[asyncio.Runner, Any]:
    manager: Any = SimpleNamespace(
        settings=Settings(),
        registry=_Registry(),
        models=_Models(),
        workers=SimpleNamespace(serving=1),
        metrics=lambda: b"",
    )
    app = create_app(manager)
    app.openapi()
    return asyncio.Runner(), app


def z7_request(octets: bytes) -> None:
    """Send a request: a line with method and path, lines of headers, an empty one, the body.

    What the server's HTTP library refuses never gets to the application.
    """
    head, _, body = octets.partition(b"\n\n")
    first, _, rest = head.partition(b"\n")
    parser = h11.Connection(h11.SERVER)
    try:
        parser.receive_data(first + b" HTTP/1.1\n" + rest + b"\n\n")
        request = parser.next_event()
    except h11.RemoteProtocolError:
        return
    if isinstance(request, h11.Request):
        _send(request, body)


def _send(request: h11.Request, body: bytes) -> None:
    path, _, query = request.target.partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": request.method.decode("ascii"),
        "scheme": "http",
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 9000),
    }
    runner, app = _served()
    sent = runner.run(_exchange(app, scope, body))
    status, answer = sent[0]["status"], b"".join(part.get("body", b"") for part in sent[1:])
    assert 200 <= status < 500, (status, answer)
    if status >= 400 and scope["method"] != "HEAD":
        assert set(json.loads(answer)) == {"error", "code", "timestamp"}, answer


async def _exchange(app: Any, scope: dict[str, Any], body: bytes) -> list[Any]:
    """Return what the application sends; the client has gone once its body is read."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop() if waiting else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def z8_files(octets: bytes) -> None:
    """Load a settings file, or a state file with changes; both are read, or refused in words."""
    if octets[:1] == b"\x01":
        _state(octets[1:])
    else:
        _settings(octets)


def _settings(octets: bytes) -> None:
    file = Path(FOLDER.name, "x.toml")
    file.write_bytes(octets)
    try:
        load(file, environ={})
    except InvalidSettings as error:
        said = error.mistakes
    else:
        return
    assert said
    assert all(sentence.strip() for sentence in said)


def _state(changes: bytes) -> None:
    """Each change is two octets of a place, one of a length, and the new octets."""
    good, records = _written()
    file = bytearray(good)
    while len(changes) > 3:
        place, length = int.from_bytes(changes[:2], "big") % (len(good) + 1), changes[2]
        if length:
            file[place : place + length] = changes[3 : 3 + length]
        else:
            del file[place:]
        changes = changes[3 + length :]
    path = Path(FOLDER.name, "state.db")
    for left in path.parent.glob("state.db*"):
        left.unlink()
    path.write_bytes(file)
    try:
        found = asyncio.run(_read(path))
    except StateFailed:
        assert path.read_bytes() == file, "what cannot be read is left as it is"
    else:
        assert found == records or not file, "a change that nobody noticed"


async def _read(path: Path) -> list[Record]:
    store = Store(path)
    try:
        for spec in SPECS:
            await store.history(spec.name)
        return await store.records()
    finally:
        await store.close()


@functools.cache
def _written() -> tuple[bytes, list[Record]]:
    """A state file, and what is in it."""

    async def write() -> None:
        store = Store(path)
        for spec in SPECS:
            await store.insert(spec, 8081, 9100, Desired.RUNNING, Origin.API)
            await store.remember(spec.name, "ready", "")
        await store.close()

    path = Path(FOLDER.name, "good.db")
    asyncio.run(write())
    good = path.read_bytes()
    return good, asyncio.run(_read(path))
