"""The image and the compose file: their commands are ours, and what they name is there."""

from __future__ import annotations

import http.server
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from serve_command import settings_of

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def instructions(name: str) -> list[str]:
    """What stands after an instruction, once for each time that it stands there."""
    text = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
    return re.findall(rf"^{name} (.*)$", text, re.M)


def command() -> list[str]:
    (text,) = instructions("CMD")
    argv: list[str] = json.loads(text)
    return argv


def compose() -> dict[str, Any]:
    (service,) = yaml.safe_load((DEPLOY / "compose.yml").read_text("utf-8"))["services"].values()
    found: dict[str, Any] = service
    return found


def test_container_serves_on_every_address_by_flags_that_say_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(command(), monkeypatch)
    assert (settings.api.host, settings.grpc.host) == ("0.0.0.0", "0.0.0.0")
    assert "--allow-insecure" in command()
    exposed = {settings.api.port, settings.grpc.multiplexer_port}
    assert exposed == {int(port) for port in instructions("EXPOSE")[0].split()}
    assert str(settings.state.path.parent) in json.loads(instructions("VOLUME")[0])


def test_router_is_that_of_teis_own_grpc_image() -> None:
    (default,) = instructions("ARG")
    assert default == "TEI_TAG=cpu-1.9-grpc"
    (base,) = instructions("FROM")
    assert base.endswith("/huggingface/text-embeddings-inference:${TEI_TAG}")
    assert instructions("USER") == ["tei-manager"]


def test_everything_that_is_copied_exists_and_is_sent_to_the_builder() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    sent = [line[1:] for line in ignored if line.startswith("!")]
    for copy in instructions("COPY"):
        *sources, _ = copy.split()
        for source in sources:
            assert (ROOT / source).exists()
            assert any(fnmatch(source, pattern) for pattern in sent), source


@contextmanager
def api(status: int) -> Iterator[int]:
    """Something that answers GET /health with a status; its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_request(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def checked(port: int) -> int:
    """The exit code of the image's health check, asked on a port."""
    (text,) = instructions("HEALTHCHECK")
    _, flag, program = json.loads(text.partition("CMD ")[2])
    program = program.replace("9000", str(port))
    return subprocess.run(
        [sys.executable, flag, program], capture_output=True, timeout=60
    ).returncode


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_check_says_what_the_api_says(status: int, code: int) -> None:
    with api(status) as port:
        assert checked(port) == code


def test_health_check_fails_where_nothing_answers() -> None:
    with api(200) as port:
        pass
    assert checked(port) == 1


def test_compose_mounts_settings_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    service = compose()
    mounts = dict(volume.split(":")[:2] for volume in service["volumes"])
    (config,) = [source for source in mounts if source.startswith("..")]
    assert service["environment"] == {"TEI_MANAGER_CONFIG": mounts[config]}
    environ = {"TEI_MANAGER_CONFIG": str(DEPLOY / config)}
    settings = settings_of(command(), monkeypatch, environ)
    assert len(settings.instance) == 3
    assert set(mounts.values()) >= {"/data", str(settings.state.path.parent)}
    (tag,) = instructions("ARG")
    assert dict([tag.split("=")]) == service["build"]["args"]
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_compose_opens_both_ports_to_this_machine_only() -> None:
    assert compose()["ports"] == ["127.0.0.1:9000:9000", "127.0.0.1:9001:9001"]
