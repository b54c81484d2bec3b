"""Weights in shards: the same model as in one file, and a sentence for what is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tei_manager.engine.checkpoint import INDEX, WEIGHTS, weight_files
from tei_manager.engine.encoder import Encoder
from tei_manager.engine.graph.writer import write_graph
from tei_manager.engine.kinds import Head
from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.tokenizer import TokenIds
from tiny_models import TinyModel, write


def _shard(model: TinyModel) -> None:
    """Divide a model's weights into three files and an index, as publishers of large ones do."""
    names = sorted(model.weights)
    where = {name: f"model-{1 + n % 3:05}-of-00003.safetensors" for n, name in enumerate(names)}
    for shard in set(where.values()):
        tensors = {name: model.weights[name] for name in names if where[name] == shard}
        save_file(tensors, model.directory / shard)
    (model.directory / WEIGHTS).unlink()
    (model.directory / INDEX).write_text(json.dumps({"weight_map": where}))


def _answer(model: TinyModel, target: Path) -> Any:
    target.mkdir()
    write_graph(model.config, Head.NONE, weight_files(model.directory), target)
    encoder = Encoder(target / "model.onnx", Head.NONE, model.config["pad_token_id"], threads=1)
    (output,) = encoder.run([TokenIds([2, 4, 9, 3], [0] * 4)])
    return output.tokens


def test_shards_make_the_model_that_one_file_makes(tmp_path: Path) -> None:
    model = write(tmp_path / "m")
    whole = _answer(model, tmp_path / "whole")
    _shard(model)
    np.testing.assert_array_equal(_answer(model, tmp_path / "shards"), whole)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    model = write(tmp_path / "m")
    _shard(model)
    (model.directory / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelUnusable, match=r"lacks model-00002-of-00003\.safetensors"):
        weight_files(model.directory)


@pytest.mark.parametrize(
    "index",
    ["[", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}',
     '{"weight_map": {"a": "../model.safetensors"}}', '{"weight_map": {"a": "/etc/passwd"}}'],
)  # fmt: skip
def test_an_index_that_says_nothing_usable_is_named(index: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(index)
    with pytest.raises(ModelUnusable, match=INDEX):
        weight_files(tmp_path)
