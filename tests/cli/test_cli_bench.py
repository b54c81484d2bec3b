"""``tei-manager bench`` against a server that is instance and multiplexer at once."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest
from authority import Authority
from both_services import NAME, both_services
from typer.testing import CliRunner

from tei_manager.bench.results import DIRECT, OURS, Overheads
from tei_manager.cli.main import app

RUNNER = CliRunner()


def test_a_group_is_measured_shown_and_written(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"run.{kind}" for kind in ("json", "markdown", "html")}
    with both_services() as server:
        result = RUNNER.invoke(
            app,
            [
                *("bench", "embedding_overhead", "--direct", server.address, "-i", NAME),
                *("--target", server.address, "--calls", "2"),
                *(f"--{kind}={path}" for kind, path in files.items()),
            ],
        )
    assert result.exit_code == 0, result.output
    results = Overheads.read(files["json"])
    assert list(results.rounds) == ["short", "medium", "long", "extra-long"]
    assert set(results.rounds["short"]) == {DIRECT, OURS}
    assert "extra-long" in result.output
    assert "| short |" in files["markdown"].read_text()
    assert "<svg" in files["html"].read_text()
    assert str(server.port) not in files["html"].read_text(), "an address of this machine"


@pytest.mark.parametrize("door", ["https", "unix"])
def test_the_multiplexer_is_reached_by_tls_and_by_a_unix_socket(tmp_path: Path, door: str) -> None:
    authority, unix, file = Authority(tmp_path), tmp_path / "mux.sock", tmp_path / "run.json"
    tls = authority.server()
    pair = Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes()
    with both_services(grpc.ssl_server_credentials([pair]), unix) as server:
        targets = {"https": f"https://localhost:{server.tls_port}", "unix": f"unix:{unix}"}
        argv = ["--ca", str(authority.file), "bench", "streaming_requests", "-i", NAME]
        argv += ["--direct", server.address, "--target", targets[door]]
        result = RUNNER.invoke(app, [*argv, "--calls", "1", "--json", str(file)])
    assert result.exit_code == 0, result.output
    command = Overheads.read(file).about["command"]
    assert f"--target {door}:" in command
    assert str(tmp_path) not in command


def test_an_instance_that_is_not_there_is_one_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    result = RUNNER.invoke(app, ["bench", "--direct", address, "-i", NAME, "--target", address])
    assert result.exit_code == 1
    assert f"a call to {address} (direct) failed" in str(result.exception)


def test_an_unknown_group_names_those_there_are() -> None:
    result = RUNNER.invoke(app, ["bench", "other", "--direct", "127.0.0.1:1", "-i", NAME])
    assert result.exit_code == 2
    assert "streaming_requests" in result.output
