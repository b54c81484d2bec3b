"""A router is asked for its flags once, and gets none that it does not know."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from control_plane import running

from tei_manager.errors import LaunchFailed
from tei_manager.manager import flags as module
from tei_manager.manager.flags import KnownFlags
from tei_manager.manager.launcher import Program, understood

KNOWN = frozenset({"--model-id", "--port"})


def _router(folder: Path, script: str) -> Program:
    binary = folder / "router"
    binary.write_text(f"#!/bin/sh\n{script}\n")
    binary.chmod(0o755)
    return Program("tei", (str(binary),))


@pytest.mark.asyncio
async def test_many_launches_at_once_ask_a_router_once(tmp_path: Path) -> None:
    program = _router(tmp_path, f"echo $1 >> {tmp_path}/asked; echo '--model-id <ID>  -p, --port'")
    known = KnownFlags()
    answers = await asyncio.gather(*(known.of(program) for _ in range(20)))
    assert set(answers) == {KNOWN}
    assert (tmp_path / "asked").read_text() == "--help\n"
    _router(tmp_path, "echo '--model-id --newer'")
    assert await known.of(program) == {"--model-id", "--newer"}, "another program"


@pytest.mark.asyncio
@pytest.mark.parametrize("script", ["exit 2", "echo '--verbose'", "kill -9 $$", "exec sleep 600"])
async def test_router_that_does_not_tell_gets_every_flag(
    tmp_path: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in script:
        monkeypatch.setattr(module, "_HELP_LIMIT", 0.1)
    assert await KnownFlags().of(_router(tmp_path, script)) == frozenset()


def test_what_a_router_lacks_is_left_out_or_refused_by_name() -> None:
    given = ["--model-id=m", "--port=1", "--prometheus-port=2", "--json-output"]
    assert understood(given, KNOWN) == ["--model-id=m", "--port=1"]
    assert understood([*given, "--new=1"], frozenset()) == [*given, "--new=1"]
    with pytest.raises(LaunchFailed, match="does not know --new, --pooling; leave it out"):
        understood([*given, "--pooling=mean", "--new=1"], KNOWN)


@pytest.mark.asyncio
async def test_instance_with_a_flag_that_its_router_does_not_know_fails_with_its_name(
    tmp_path: Path,
) -> None:
    async with running(tmp_path) as rig:
        view = await rig.create("a", "--made-up=1")
        assert view["status"] == "failed"
        assert "does not know --made-up" in view["status_reason"]
        assert (await rig.create("b"))["status"] == "running"
