"""The systemd unit: systemd reads it, and what it starts is a command of ours."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from serve_command import settings_of

UNIT = Path(__file__).parents[2] / "deploy" / "tei-manager.service"
PROGRAM = "/opt/tei-manager/bin/tei-manager"


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text("utf-8"), re.M)


def test_command_starts_a_manager_that_leaves_workers_and_instances_running(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (command,) = values("ExecStart")
    config = tmp_path / "models.toml"
    config.write_text("")
    for specifier, folder in (("%S", "/var/lib"), ("%L", "/var/log")):
        command = command.replace(specifier, folder)
    program, *argv = shlex.split(command.replace("/etc/tei-manager/models.toml", str(config)))
    assert program == PROGRAM
    settings = settings_of(argv, monkeypatch)
    assert settings.instances.on_exit == "leave"
    assert (settings.api.host, settings.grpc.host) == ("127.0.0.1", "127.0.0.1")
    (state,), (logs,) = values("StateDirectory"), values("LogsDirectory")
    assert settings.state.path == Path("/var/lib") / state / "state.db"
    assert settings.instances.log_dir == Path("/var/log") / logs


def test_what_is_left_running_is_left_alone() -> None:
    assert values("KillMode") == ["process"]
    assert values("OOMPolicy") == ["continue"]
    assert values("PrivateTmp") == []


def test_nothing_hides_the_gpus() -> None:
    for key in ("PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock",
                "MemoryDenyWriteExecute"):  # fmt: skip
        assert values(key) == [], key


def test_it_waits_longer_for_the_end_than_the_manager_for_its_instances(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = settings_of(["serve"], monkeypatch)
    assert int(values("TimeoutStopSec")[0]) > 2 * settings.instances.stop_timeout_secs


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_has_nothing_to_say_about_it(tmp_path: Path) -> None:
    unit = UNIT.read_text("utf-8").replace(PROGRAM, sys.executable)
    assert _verified(tmp_path, unit) == ""
    assert "kill mode" in _verified(tmp_path, unit.replace("KillMode=process", "KillMode=proces"))


def _verified(folder: Path, text: str) -> str:
    """What systemd has to say about a unit."""
    unit = folder / UNIT.name
    unit.write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return told.stdout + told.stderr
