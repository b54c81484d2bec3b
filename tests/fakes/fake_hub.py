"""A Hugging Face hub on loopback: one commit of one model, ranges, and a wire that can be cut."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "org/tiny"
COMMIT = "a" * 40

FILES = {
    "config.json": json.dumps(
        {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 4}
    ).encode(),
    "tokenizer.json": b"{}",
    "1_Pooling/config.json": b'{"pooling_mode_mean_tokens": true}',
    "model.safetensors": bytes(range(256)) * (24 << 12),  # the library hands on 10 MiB at a time
    "flax_model.msgpack": b"never asked for",
}


class FakeHub(ThreadingHTTPServer):
    """The server; `gets` are the files that were asked for, each with its range."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.gets: list[tuple[str, str]] = []
        self.gate = threading.Event()
        self.gate.set()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def do_HEAD(self) -> None:
        self._file(head=True)

    def do_GET(self) -> None:
        if re.fullmatch(rf"/api/models/{MODEL}(/revision/\w+)?(\?.*)?", self.path):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in FILES.items()]
            self._answer(json.dumps({"id": MODEL, "sha": COMMIT, "siblings": siblings}).encode())
        else:
            self._file(head=False)

    def _file(self, head: bool) -> None:
        name = self.path.removeprefix(f"/{MODEL}/resolve/{COMMIT}/")
        if (data := FILES.get(name)) is None:
            self._answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
            return
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        if head:
            headers["Content-Length"] = str(len(data))
            self._answer(b"", headers=headers)
            return
        wanted = self.headers.get("Range", "")
        self.server.gets.append((name, wanted))
        begin = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        self._answer(data[begin:], 206 if begin else 200, headers)

    def _answer(
        self, body: bytes, status: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        half = len(body) // 2
        with contextlib.suppress(OSError):
            self.wfile.write(body[:half])
            self.wfile.flush()
            if half > 1000:
                self.server.gate.wait(60)
            self.wfile.write(body[half:])


@contextlib.contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Serve until the body ends."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.gate.set()
            hub.shutdown()
            thread.join(10)
