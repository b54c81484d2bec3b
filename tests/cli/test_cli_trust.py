"""The commands and servers with TLS: ``--ca``, ``--cert`` and ``--key``, and their variables."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from api_thread import serving
from authority import Authority
from typer.testing import CliRunner

from tei_manager.cli.control import default_url
from tei_manager.cli.main import app
from tei_manager.cli.trust import Trust
from tei_manager.errors import CertificateRefused
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

RUNNER = CliRunner()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def run(*arguments: object, **environment: object) -> tuple[int, str]:
    env = {name: str(value) for name, value in environment.items()}
    result = RUNNER.invoke(app, [str(each) for each in arguments], env=env)
    return result.exit_code, result.output


def test_the_api_is_asked_over_tls_by_flags_or_environment(authority: Authority) -> None:
    cert, key = authority.issue("client", "ops.example")
    with serving(authority.folder, authority.mutual("ops.example")) as url:
        ask = ("instances", "list", "--api", url)
        code, output = run("--ca", authority.file, "--cert", cert, "--key", key, *ask)
        assert (code, output[:12]) == (0, "No instances")
        files = {"TEI_MANAGER_CA": authority.file, "TEI_MANAGER_CERT": cert}
        assert run(*ask, **files, TEI_MANAGER_KEY=key)[0] == 0
        code, output = run(*ask, TEI_MANAGER_CERT=cert, TEI_MANAGER_KEY=key)
        assert (code, "name the server's CA with tei-manager --ca" in output) == (1, True)
        assert run("--ca", authority.file, *ask)[0] == 1


class Multiplexer(mux_grpc.TeiMultiplexerServicer):
    def Embed(  # noqa: N802
        self, request: mux_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> tei_pb2.EmbedResponse:
        return tei_pb2.EmbedResponse(embeddings=[0.6, 0.8])


@pytest.fixture
def secure(authority: Authority) -> Iterator[int]:
    """The port of a server with TLS."""
    tls = authority.server()
    pair = Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        mux_grpc.add_TeiMultiplexerServicer_to_server(Multiplexer(), server)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        server.start()
        yield port
        server.stop(None).wait(10)


def test_embed_uses_tls_where_its_target_says_https(authority: Authority, secure: int) -> None:
    ask = ("embed", "-i", "a", "x", "--target")
    code, output = run("--ca", authority.file, *ask, f"https://localhost:{secure}")
    assert (code, "+0.600000, +0.800000" in output) == (0, True)
    target = {"TEI_MANAGER_CA": authority.file, "TEI_MANAGER_GRPC": f"https://localhost:{secure}"}
    assert run(*ask[:-1], **target)[0] == 0
    assert run(*ask, f"https://localhost:{secure}")[0] == 4, "nobody trusts this CA"


@pytest.mark.parametrize("make", [Trust.context, Trust.credentials])
def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path, make: object) -> None:
    assert callable(make)
    with pytest.raises(CertificateRefused, match="--ca, --cert or --key cannot be"):
        make(Trust(tmp_path / "missing.pem"))


def test_without_files_the_system_is_trusted() -> None:
    assert Trust().context().verify_mode is ssl.CERT_REQUIRED


def test_commands_expect_tls_where_their_environment_has_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TEI_MANAGER_API_TLS_CERT_FILE", "server.pem")
    assert default_url() == "https://127.0.0.1:9000"
