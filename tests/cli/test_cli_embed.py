"""``tei-manager embed`` through a server that answers like the multiplexer."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from typer.testing import CliRunner

from tei_manager.cli.main import app
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

RUNNER = CliRunner()


class Multiplexer(mux_grpc.TeiMultiplexerServicer):
    def Embed(  # noqa: N802
        self, request: mux_pb2.EmbedRequest, context: grpc.ServicerContext
    ) -> tei_pb2.EmbedResponse:
        if request.target.instance_name not in ("bge", "guarded"):
            context.abort(grpc.StatusCode.NOT_FOUND, "Instance 'xxx' not found")
        if request.target.instance_name == "guarded":
            sent = dict(context.invocation_metadata())
            if sent.get("authorization") != "Bearer correct-horse":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Send a token")
        assert request.request.truncate
        assert request.request.normalize
        return tei_pb2.EmbedResponse(embeddings=[0.6, 0.8, 0, 0, 0, 0, 0, 0])


@pytest.fixture
def target() -> Iterator[str]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        mux_grpc.add_TeiMultiplexerServicer_to_server(Multiplexer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait(10)


def _run(target: str, *arguments: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["embed", "--target", target, *arguments])
    return result.exit_code, result.output


def test_token_is_the_first_line_of_a_file(target: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("correct-horse\nother\n")
    code, output = _run(target, "-i", "guarded", "x", "--token-file", str(tmp_path / "token"))
    assert code == 0, output
    code, output = _run(target, "-i", "guarded", "x")
    assert (code, "Send a token; name its file with --token-file" in output) == (1, True)


def test_first_numbers_length_and_time_are_shown(target: str) -> None:
    code, output = _run(target, "-i", "bge", "Hello world")
    assert code == 0
    assert "'Hello world': 8 numbers [+0.600000, +0.800000, " in output
    assert "length 1.000000" in output
    assert " ms" in output


def test_json_has_the_whole_vector_of_each_text(target: str) -> None:
    code, output = _run(target, "--instance", "bge", "one", "two", "--json")
    rows = json.loads(output)
    assert code == 0
    assert [row["text"] for row in rows] == ["one", "two"]
    assert len(rows[0]["embedding"]) == 8
    assert rows[0]["norm"] == pytest.approx(1)


def test_unknown_instance_is_one_sentence_and_exit_code_3(target: str) -> None:
    assert _run(target, "-i", "xxx", "x") == (3, "Error: Instance 'xxx' not found (NOT_FOUND)\n")


def test_no_multiplexer_is_exit_code_4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, output = _run(f"127.0.0.1:{port}", "-i", "bge", "x")
    assert (code, output.startswith("Error: ")) == (4, True)
