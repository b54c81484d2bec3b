from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]


# The last of several flags of one name counts.
_ADDRESS = ("--hostname", "127.0.0.1", "--port", "0", "--prometheus-port", "0")


def _run(*flags: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run an engine that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "tei_manager.engine", *_ADDRESS, *flags],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": str(cache),
            "XDG_CACHE_HOME": str(cache),
        }
        | environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def _one_sentence(run: subprocess.CompletedProcess[str]) -> str:
    """Return the only line on stderr of a run that failed with 1."""
    assert run.returncode == 1
    (line,) = run.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("config.json", "{", "Cannot read config.json"),
        ("tokenizer.json", "[]", "Cannot read the tokenizer"),
        ("model.safetensors", "weights", "Cannot read the weights"),
        ("onnx/model.onnx", "graph", "ONNX Runtime cannot load"),
    ],
)
def test_a_broken_model_directory_ends_with_one_sentence_and_1(
    name: str,
    content: str,
    sentence: str,
    make_model: Callable[..., Any],
    graph_cache_home: Path,
) -> None:
    directory, _, _ = make_model()
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text(content)
    run = _run("--model-id", str(directory), cache=graph_cache_home)
    assert sentence in _one_sentence(run)


def test_weights_of_the_wrong_shape_end_with_one_sentence_and_1(
    make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    directory, _, weights = make_model()
    weights["encoder.layer.1.output.LayerNorm.weight"] = np.ones(5, np.float32)
    save_file(weights, directory / "model.safetensors")
    line = _one_sentence(_run("--model-id", str(directory), cache=graph_cache_home))
    assert "ONNX Runtime cannot load" in line or "The model cannot run" in line


def test_labels_that_the_head_does_not_have_end_with_one_sentence_and_1(
    make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    directory = make_model("bert", "classifier").directory
    config = json.loads((directory / "config.json").read_text())
    config["id2label"] = {"0": "yes", "1": "no"}
    (directory / "config.json").write_text(json.dumps(config))
    line = _one_sentence(_run("--model-id", str(directory), cache=graph_cache_home))
    assert "its graph does not give one number for each of 2 labels" in line


def test_a_dense_module_that_does_not_fit_ends_with_one_sentence_and_1(
    make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    directory = make_model().directory
    (directory / "2_Dense").mkdir()
    (directory / "2_Dense/config.json").write_text("{}")
    weight = np.ones((3, 99), np.float32)
    save_file({"linear.weight": weight}, directory / "2_Dense/model.safetensors")
    flags = ("--model-id", str(directory), "--dense-path", "2_Dense")
    assert "The model cannot run 1 tokens" in _one_sentence(_run(*flags, cache=graph_cache_home))


def test_a_dtype_that_the_model_lacks_ends_with_one_sentence_and_1(
    make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    flags = ("--model-id", str(make_model().directory), "--dtype", "int8")
    assert "has no int8 graph; looked for" in _one_sentence(_run(*flags, cache=graph_cache_home))


def test_a_prompt_that_the_model_lacks_ends_with_one_sentence_and_1(
    make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    directory, _, _ = make_model()
    flags = ("--model-id", str(directory), "--default-prompt-name", "query")
    line = _one_sentence(_run(*flags, cache=graph_cache_home))
    assert "The model has no prompt 'query'; it has: none" in line


def test_a_model_longer_than_the_budget_needs_auto_truncate(
    make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    directory, _, _ = make_model()
    flags = ("--model-id", str(directory), "--max-batch-tokens", "8", "--auto-truncate", "false")
    line = _one_sentence(_run(*flags, cache=graph_cache_home))
    assert "The model takes 24 tokens and --max-batch-tokens is 8" in line


@pytest.mark.parametrize("flag", ["--port", "--prometheus-port"])
def test_a_port_that_is_taken_is_named(
    flag: str, make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    directory, _, _ = make_model()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = _run("--model-id", str(directory), flag, str(port), cache=graph_cache_home)
    line = _one_sentence(run)
    assert f"127.0.0.1:{port}" in line
    assert f"choose another {flag}" in line


def test_an_unknown_flag_ends_with_2(graph_cache_home: Path) -> None:
    run = _run("--model-id", "m", "--no-such-flag", cache=graph_cache_home)
    assert run.returncode == 2
    assert "unrecognized arguments: --no-such-flag" in run.stderr


def test_a_window_that_is_no_number_is_named(
    make_model: Callable[..., Any], graph_cache_home: Path
) -> None:
    directory, _, _ = make_model()
    variables = {"GRPC_MAX_PARALLEL_STREAM_REQUESTS": "many"}
    line = _one_sentence(_run("--model-id", str(directory), cache=graph_cache_home, **variables))
    assert "GRPC_MAX_PARALLEL_STREAM_REQUESTS must be a positive integer, not 'many'" in line
