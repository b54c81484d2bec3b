"""``tei-manager instances`` against a serving manager: what is printed, and the exit codes."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from tei_manager.cli.main import app

RUNNER = CliRunner()


def _run(api: str, *arguments: str) -> tuple[int, str]:
    result = RUNNER.invoke(app, ["instances", *arguments, "--api", api])
    return result.exit_code, result.output


def _json(api: str, *arguments: str) -> Any:
    code, output = _run(api, *arguments, "--json")
    assert code == 0, output
    return json.loads(output)


def test_an_instance_is_led_through_its_life(api: str) -> None:
    created = _json(api, "create", "life", "org/model", "--pooling", "mean", "--wait", "30")
    assert (created["status"], created["pooling"]) == ("running", "mean")
    assert [row["name"] for row in _json(api, "list")] == ["life"]
    assert _json(api, "stop", "life", "--wait", "30")["status"] == "stopped"
    assert _json(api, "start", "life", "--wait", "30")["status"] == "running"
    assert _json(api, "restart", "life", "--wait", "30")["restarts"] == 1
    assert _json(api, "show", "life")["model_id"] == "org/model"
    assert _json(api, "logs", "life", "-n", "1")["lines"] == ["Ready"]
    assert _json(api, "delete", "life") == {"deleted": "life"}
    assert _json(api, "list") == []


def test_people_get_a_table_and_sentences(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert "tei-manager instances create" in _run(api, "list")[1]
    assert _run(api, "create", "tab", "m", "--wait", "30")[1].startswith(
        "tab: running at 127.0.0.1:"
    )
    assert "tab" in _run(api, "list")[1]
    assert "max_batch_tokens" in _run(api, "show", "tab")[1]
    assert "Ready" in _run(api, "logs", "tab")[1]
    assert _run(api, "delete", "tab") == (0, "tab: deleted\n")


def test_exit_codes_tell_refused_from_missing(api: str) -> None:
    assert _run(api, "show", "none") == (3, "Error: Instance 'none' not found\n")
    assert _run(api, "delete", "../health")[0] == 3
    assert _run(api, "create", "twice", "m", "--no-start")[0] == 0
    code, output = _run(api, "create", "twice", "m")
    assert (code, "already exists" in output) == (1, True)
    assert _run(api, "stop", "twice") == (1, "Error: Instance 'twice' is stopped already\n")
    assert _run(api, "delete", "twice")[0] == 0


def test_instance_that_failed_makes_its_command_fail(api: str, tmp_path: Path) -> None:
    (tmp_path / "poison").touch()
    vice = f"--die-if={tmp_path / 'poison'}"
    code, output = _run(api, "create", "bad", "m", "--extra", vice, "--wait", "30")
    assert (code, "bad: failed" in output) == (1, True)
    assert _run(api, "delete", "bad")[0] == 0


def test_followed_log_goes_on_with_new_lines_until_the_instance_is_deleted(api: str) -> None:
    _json(api, "create", "tail", "m", "--wait", "30")
    command = [sys.executable, "-m", "tei_manager", "instances", "logs", "tail", "-f", "--api", api]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline().startswith("environment: ")
        assert follower.stdout.readline() == "Ready\n"
        _json(api, "restart", "tail", "--wait", "30")
        assert follower.stdout.readline().startswith("environment: ")
        assert follower.stdout.readline() == "Ready\n"
        _json(api, "delete", "tail")
        assert follower.wait(30) == 0


def test_what_happened_is_listed(api: str) -> None:
    _json(api, "create", "past", "m", "--wait", "30")
    assert [row["event"] for row in _json(api, "events", "past")] == ["start requested", "ready"]
    assert "start requested" in _run(api, "events", "past")[1]
    assert _run(api, "delete", "past")[0] == 0


def test_table_in_a_pipe_is_one_line_for_each_instance(api: str) -> None:
    model = "org/" + "long-name-" * 9
    assert _run(api, "create", "wide", model, "--no-start")[0] == 0
    heading, line = _run(api, "list")[1].splitlines()
    assert heading.split()[:3] == ["Name", "Status", "Model"]
    assert line.split()[:3] == ["wide", "stopped", model]
    assert _run(api, "delete", "wide")[0] == 0


def test_waiting_in_vain_is_an_exit_code_of_its_own(api: str) -> None:
    code, output = _run(api, "create", "slow", "m", "--extra", "--slow-start=60", "--wait", "0.2")
    assert (code, "slow is starting after 0.2 s" in output) == (5, True)
    shown = _json(api, "show", "slow", "--wait", "0.1")
    assert shown["status"] == "starting"
    assert _run(api, "delete", "slow")[0] == 0


def test_every_command_that_prints_has_json() -> None:
    """But those that run until they are stopped, and the schema, which is JSON."""
    silent = {"serve", "mux", "schema"}

    def commands(group: Any, *path: str) -> Iterator[tuple[str, Any]]:
        for name, command in getattr(group, "commands", {}).items():
            yield from commands(command, *path, name)
            if not hasattr(command, "commands"):
                yield name, command

    found = dict(commands(get_command(app)))
    assert {"list", "top", "logs", "events", "check", "embed"} < set(found)
    for name, command in found.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert name in silent or "--json" in options, name


def test_shell_completes_the_names_of_instances(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _json(api, "create", "complete", "m", "--no-start")
    monkeypatch.setenv("TEI_MANAGER_API", api)
    environ = {"_TEI_MANAGER_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    words = {"COMP_WORDS": "tei-manager instances show comp"}
    result = RUNNER.invoke(app, [], prog_name="tei-manager", env=environ | words)
    assert result.output.split() == ["complete"]
    assert _run(api, "delete", "complete")[0] == 0


def test_no_manager_is_an_exit_code_of_its_own_and_says_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    code, output = _run(f"http://127.0.0.1:{port}", "list")
    assert code == 4
    assert "tei-manager serve" in output


def test_address_that_is_none_is_one_sentence() -> None:
    code, output = _run("nonsense", "list")
    assert code == 1
    assert output.startswith("Error: ")


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "No such file"), ("", "no token in it"), ("\xe9", "no token in it")]
)
def test_token_file_that_cannot_be_used_is_one_sentence(
    api: str, tmp_path: Path, text: str | None, reason: str
) -> None:
    if text is not None:
        (tmp_path / "token").write_text(text)
    code, output = _run(api, "list", "--token-file", str(tmp_path / "token"))
    assert (code, reason in output, len(output.splitlines())) == (1, True, 1)
