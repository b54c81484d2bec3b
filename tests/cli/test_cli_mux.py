"""What ``tei-manager mux`` makes of its flags."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from tei_manager.cli.main import app
from tei_manager.cli.mux import parse_address, parse_route
from tei_manager.errors import InvalidSettings
from tei_manager.routes import Route, RouteState, RouteTable
from tei_manager.tls import Tls
from tei_manager.unix_socket import UnixAddress

RUNNER = CliRunner()


def test_route_is_name_address_and_pairs() -> None:
    route = parse_route("bge=[::1]:80,model=BAAI/bge=x,status=stopped", 3)
    assert (route.name, route.host, route.port) == ("bge", "::1", 80)
    assert (route.model, route.state, route.ordinal) == ("BAAI/bge=x", RouteState.STOPPED, 3)
    assert parse_route("a=localhost:1", 0).state is RouteState.RUNNING


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a", "HOST:PORT"),
        ("a=host", "HOST:PORT"),
        ("a=host:http", "HOST:PORT"),
        ("a=:80", "HOST:PORT"),
        ("=host:80", "name"),
        ("a=host:80,colour=red", "colour=red"),
        ("a=host:80,status=odd", "status is one of"),
    ],
)
def test_route_that_cannot_be_read_is_told_why(text: str, word: str) -> None:
    with pytest.raises(typer.BadParameter, match=word):
        parse_route(text, 0)


def test_port_beyond_the_last_is_no_address() -> None:
    with pytest.raises(typer.BadParameter, match="--listen"):
        parse_address("127.0.0.1:65536", "--listen")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Calls of a stand-in for the worker."""
    made: list[tuple[Any, ...]] = []
    worker = ModuleType("tei_manager.mux.worker")
    worker.become_standalone = lambda *values: made.append(values)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, worker.__name__, worker)
    return made


def test_flags_become_one_call_of_the_worker(calls: list[tuple[Any, ...]]) -> None:
    flags = ["mux", "--listen", "127.0.0.1:9001", "--route", "a=127.0.0.1:1", "--route",
             "b=127.0.0.1:2,model=m", "--metrics", "127.0.0.1:9102",
             "--max-message-mb", "5", "--passthrough", "any",
             "--token-file", "/callers"]  # fmt: skip
    result = RUNNER.invoke(app, flags)
    assert result.exit_code == 0, result.output
    ((listen, table, options, metrics, unix),) = calls
    assert unix is None
    assert listen == ("127.0.0.1", 9001)
    assert metrics == ("127.0.0.1", 9102)
    assert isinstance(table, RouteTable)
    assert [route.name for route in table.routes] == ["a", "b"]
    assert isinstance(table.routes[0], Route)
    assert options == {
        "max_parallel_streams": 1024,
        "request_timeout_secs": 30,
        "max_message_mb": 5,
        "memory_limit_mb": 512,
        "passthrough": "any",
        "token_file": "/callers",
    }


def test_flags_for_tls_and_a_unix_socket_reach_the_worker(
    calls: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    flags = ["mux", "--listen", "h:1", "--route", "a=h:2", "--uds", str(tmp_path / "s"),
             "--uds-mode", "0660", "--tls-cert", "/c.pem", "--tls-key", "/k.pem",
             "--tls-client-ca", "/ca.pem", "--tls-client-name", "a.example",
             "--tls-client-name", "spiffe://b"]  # fmt: skip
    result = RUNNER.invoke(app, flags)
    assert result.exit_code == 0, result.output
    ((_, _, options, _, unix),) = calls
    assert unix == UnixAddress(tmp_path / "s", 0o660)
    names = ("a.example", "spiffe://b")
    assert Tls.from_json(options["tls"]) == Tls("/c.pem", "/k.pem", "/ca.pem", names)


def test_a_certificate_without_its_key_is_named(calls: list[tuple[Any, ...]]) -> None:
    flags = ["mux", "--listen", "h:1", "--route", "a=h:2", "--tls-cert", "/c.pem"]
    result = RUNNER.invoke(app, flags)
    assert isinstance(result.exception, InvalidSettings)
    assert "grpc.tls_cert_file needs grpc.tls_key_file" in str(result.exception)
    assert calls == []


def test_two_routes_of_one_name_are_a_usage_mistake(calls: list[tuple[Any, ...]]) -> None:
    route = "a=127.0.0.1:1"
    result = RUNNER.invoke(app, ["mux", "--listen", "h:1", "--route", route, "--route", route])
    assert result.exit_code == 2
    assert calls == []


def test_thousands_of_routes_reach_the_worker() -> None:
    """An argument may have 128 KiB on Linux, which these would be beyond as one."""
    routes = [f"--route=instance-{number}=127.0.0.1:1" for number in range(3000)]
    command = [sys.executable, "-m", "tei_manager", "mux", "--listen=127.0.0.1:0", *routes]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert "3000 routes, 3000 run" in process.stdout.readline()
        finally:
            process.terminate()
