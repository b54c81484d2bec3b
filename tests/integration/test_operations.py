"""docs/operations.md does what it says: its commands show what stands below them."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml  # type: ignore[import-untyped]
from control_plane import alive
from operations import ROOT, Command, Machine, machine, sections

pytestmark = pytest.mark.timeout(240)

SECTIONS = sections()


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with a service, and an instance that is on its way into a crash loop."""
    with machine(tmp_path_factory.mktemp("box")) as made:
        assert made.start()
        settle(made, "bge-small", "running")
        create(made, "bad", autostart=True, extra_args=["--die-after=0"])
        yield made


def create(box: Machine, name: str, **fields: object) -> None:
    body = {"name": name, "model_id": "org/model", **fields}
    httpx.post(f"http://{box.api}/instances", json=body, trust_env=False).raise_for_status()


def delete(box: Machine, name: str) -> None:
    httpx.delete(f"http://{box.api}/instances/{name}", trust_env=False, timeout=60)


def settle(box: Machine, name: str, status: str) -> None:
    """Wait until an instance has a status; one that tries again and again is asked again."""
    for _ in range(90):
        url = f"http://{box.api}/instances/{name}"
        answer = httpx.get(url, params={"wait": 1}, trust_env=False, timeout=60).json()
        if answer.get("status") == status:
            return
    pytest.fail(f"{name} is not {status}: {answer}")


def try_section(box: Machine, heading: str) -> None:
    """Type the commands of a section, one after the other, and compare what they show."""
    for command in SECTIONS[heading]:
        if command.line.startswith("curl") and not shutil.which("curl"):
            continue
        output = box.type(command.line)
        assert command.matches(output), f"$ {command.line}\n{output}"
        if "systemctl" in command.line and box.service and box.service.says("Serving: "):
            settle(box, "bge-small", "running")


@pytest.fixture
def running(box: Machine) -> Machine:
    """The machine with its service up."""
    assert box.start()
    settle(box, "bge-small", "running")
    return box


def test_all_is_well_after_the_installation(running: Machine) -> None:
    try_section(running, "Install")


def test_refused_connection_is_told_from_other_failures(running: Machine, tmp_path: Path) -> None:
    nobody = Machine(tmp_path)
    try_section(nobody, "Connection refused")


def test_name_that_nobody_has_can_be_given_to_an_instance(running: Machine) -> None:
    delete(running, "e5-small")
    try_section(running, "Instance not found")


def test_instance_that_was_stopped_says_so_and_can_be_started(running: Machine) -> None:
    delete(running, "e5-small")
    create(running, "e5-small")
    running.type("tei-manager instances stop e5-small --wait 60")
    try_section(running, "Instance not running")


def test_what_holds_a_port_or_the_state_is_named(running: Machine) -> None:
    try_section(running, "Port conflicts")


def test_crash_loop_is_told_with_its_reason_and_can_be_ended(running: Machine) -> None:
    settle(running, "bad", "failed")
    try_section(running, "Crash loop")


def test_upgrade_keeps_the_process_of_the_instance(running: Machine) -> None:
    before = json.loads(running.type("tei-manager instances show bge-small --json"))
    try_section(running, "Upgrade")
    after = json.loads(running.type("tei-manager instances show bge-small --json"))
    assert before["pid"] == after["pid"]


def test_copy_of_the_state_brings_instances_back(running: Machine) -> None:
    delete(running, "kept")
    create(running, "kept", autostart=False)
    try_section(running, "Backup and restore")
    settle(running, "kept", "stopped")


def test_end_of_everything_is_the_end_of_everything(running: Machine) -> None:
    pid = json.loads(running.type("tei-manager instances show bge-small --json"))["pid"]
    try_section(running, "Stop")
    assert not alive(pid)


def test_damaged_state_is_named_and_can_be_left_behind(running: Machine) -> None:
    running.end(signal.SIGINT)
    (running.state / "state.db").write_text("no database, and long enough to be looked at " * 30)
    try_section(running, "Damaged state file")


def test_disk_is_looked_at(running: Machine) -> None:
    try_section(running, "Disk full")


def test_every_section_with_commands_is_tried() -> None:
    tried = re.findall(r"try_section\(\w+, \"([^\"]+)\"\)", Path(__file__).read_text("utf-8"))
    assert sorted(tried) == sorted(SECTIONS)


def test_output_that_differs_is_found_out() -> None:
    command = Command("x", "Name … Up\nbge-small  running …\n")
    assert command.matches("Name  Model  Up\nbge-small   running  8081\n")
    assert not command.matches("Name  Model  Up\nbge-small   stopped  8081\n")
    assert not command.matches("Name  Up\n")


def test_files_that_an_installation_needs_are_there() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    named = set(re.findall(r"(?<=[ (/])((?:deploy|examples)/[\w.-]+)", page))
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_every_alert_is_explained() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    explained = set(re.findall(r"^\| `(Tei\w+)` \|", page, re.M))
    (group,) = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text("utf-8"))["groups"]
    assert explained == {rule["alert"] for rule in group["rules"]}


def test_messages_that_are_explained_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = page.partition("## Log")[2].partition("## Alerts")[0]
    messages = re.findall(r"^\| `([^`]+)` \| \w", table, re.M)
    source = "".join(path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py"))
    source = re.sub(r"\"\s*\n\s*f?\"", "", source)
    assert len(messages) > 10
    for message in messages:
        parts = re.split(r"…|Instance 'x': ", message)
        assert all(part.strip(" :") in source for part in parts), message
