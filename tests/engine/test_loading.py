from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tei_manager.engine import graph_cache
from tei_manager.engine.flags import parse_flags
from tei_manager.engine.loading import load
from tei_manager.engine.model import ModelUnusable
from tiny_models import FAMILIES, HEADS, TinyModel

JUNK: list[Any] = [None, [], {}, -1, 0, 10**9, 1.5, "x", [1], {"a": 1}, True]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph_cache, "user_cache_path", lambda name: tmp_path / "cache" / name)


def _loads(directory: Path, *flags: str) -> str:
    """Return why a model cannot be loaded, nothing if it can; another exception is a failure."""
    try:
        load(parse_flags(["--model-id", str(directory), *flags], {}))
    except ModelUnusable as error:
        return str(error)
    return ""


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_any_junk_in_a_description_gives_a_model_or_one_sentence(
    family: str, head: str, make_model: Callable[..., TinyModel]
) -> None:
    model = make_model(family, head)
    flags = ("--pooling", "splade") if head == "splade" else ()
    assert _loads(model.directory, *flags) == ""
    for number, key in enumerate(model.config):
        for junk in (JUNK[number % len(JUNK)], JUNK[(number + 5) % len(JUNK)]):
            changed = json.dumps(model.config | {key: junk})
            (model.directory / "config.json").write_text(changed)
            assert "\n" not in _loads(model.directory, *flags)


@pytest.mark.parametrize("junk", JUNK)
def test_any_junk_for_a_key_of_another_file_gives_a_model_or_one_sentence(
    junk: Any, make_model: Callable[..., TinyModel]
) -> None:
    directory = make_model().directory
    for name, content in (
        ("config_sentence_transformers.json", {"prompts": junk}),
        ("config_sentence_transformers.json", {"prompts": {"query": junk}}),
        ("sentence_bert_config.json", {"max_seq_length": junk}),
        ("1_Pooling/config.json", {"pooling_mode_mean_tokens": junk}),
        ("modules.json", junk),
        ("modules.json", [junk]),
        ("modules.json", [{"type": "x.Dense", "path": junk}]),
    ):
        kept = (directory / name).read_text() if (directory / name).is_file() else None
        (directory / name).write_text(json.dumps(content))
        assert "\n" not in _loads(directory)
        (directory / name).unlink() if kept is None else (directory / name).write_text(kept)
    assert _loads(directory) == ""


def test_any_tensor_of_another_shape_gives_one_sentence(
    make_model: Callable[..., TinyModel],
) -> None:
    model = make_model("mpnet", "reranker")
    for name, tensor in model.weights.items():
        for shape in ((), (5,), (3, 5), (*tensor.shape, 2)):
            broken = model.weights | {name: np.zeros(shape, np.float32)}
            save_file(broken, model.directory / "model.safetensors")
            sentence = _loads(model.directory)
            assert sentence, (name, shape)
            assert "\n" not in sentence
