from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tei_manager.engine.dense import read_dense
from tei_manager.engine.model import ModelUnusable


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


WEIGHT = f32([[1, 2], [3, 4], [5, 6]])
BIAS = f32([0.5, 0, -0.5])


def _module(directory: Path, folder: str = "2_Dense", bias: bool = True, **config: Any) -> None:
    (directory / folder).mkdir()
    (directory / folder / "config.json").write_text(json.dumps(config))
    tensors = {"linear.weight": WEIGHT} | ({"linear.bias": BIAS} if bias else {})
    save_file(tensors, directory / folder / "model.safetensors")


def _list(directory: Path, *folders: str) -> None:
    rows = [{"type": "sentence_transformers.models.Dense", "path": folder} for folder in folders]
    other = [{"type": "sentence_transformers.models.Normalize", "path": "3_Normalize"}]
    (directory / "modules.json").write_text(json.dumps(rows + other))


def test_a_model_without_a_list_has_no_dense_modules(tmp_path: Path) -> None:
    assert read_dense(tmp_path, None) == ()


def test_a_listed_module_is_a_linear_layer_and_its_activation(tmp_path: Path) -> None:
    _module(tmp_path, activation_function="torch.nn.modules.linear.Identity")
    _list(tmp_path, "2_Dense")
    (layer,) = read_dense(tmp_path, None)
    np.testing.assert_allclose(layer(f32([1, 1])), [3.5, 7, 10.5])


def test_tanh_is_the_default_and_a_bias_may_be_absent(tmp_path: Path) -> None:
    _module(tmp_path, bias=False)
    _list(tmp_path, "2_Dense")
    (layer,) = read_dense(tmp_path, None)
    np.testing.assert_allclose(layer(f32([0.1, 0])), np.tanh([0.1, 0.3, 0.5]), rtol=1e-6)


def test_a_path_of_the_users_takes_the_place_of_the_listed_one(tmp_path: Path) -> None:
    _module(tmp_path, "2_Dense_3")
    _list(tmp_path, "2_Dense")
    assert len(read_dense(tmp_path, "2_Dense_3")) == 1


def test_a_path_cannot_take_the_place_of_two(tmp_path: Path) -> None:
    _list(tmp_path, "2_Dense", "3_Dense")
    with pytest.raises(ModelUnusable, match="--dense-path replaces one Dense module"):
        read_dense(tmp_path, "4_Dense")


def test_an_activation_that_is_not_known_is_named(tmp_path: Path) -> None:
    _module(tmp_path, activation_function="torch.nn.modules.activation.SELU")
    _list(tmp_path, "2_Dense")
    with pytest.raises(ModelUnusable, match="activation 'SELU', which is not known"):
        read_dense(tmp_path, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.json", "["), ("config.json", "[]"), ("model.safetensors", "no tensors")],
)
def test_a_broken_module_is_named(name: str, content: str, tmp_path: Path) -> None:
    _module(tmp_path)
    _list(tmp_path, "2_Dense")
    (tmp_path / "2_Dense" / name).write_text(content)
    with pytest.raises(ModelUnusable, match=r"Cannot read the Dense module .*2_Dense"):
        read_dense(tmp_path, None)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"type": "x.Dense"}]'])
def test_a_broken_list_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ModelUnusable, match=r"Cannot read modules\.json"):
        read_dense(tmp_path, None)
