from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tei_manager.engine.encoder import Encoder
from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.tokenizer import TokenIds


def _published(path: Path, inputs: list[str], outputs: list[str]) -> Path:
    """Write a graph as exporters do: int64 inputs whose sum is every output."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in inputs
    ]
    results = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", 1])
        for name in outputs
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [2])
    nodes = [helper.make_node("Sum", [f"{name}.float" for name in inputs], ["sum"])]
    nodes = [
        helper.make_node("Cast", [name], [f"{name}.float"], to=TensorProto.FLOAT) for name in inputs
    ] + nodes
    nodes += [helper.make_node("Unsqueeze", ["sum", "axes"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "published", values, results, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


BATCH = [TokenIds([10, 20], [0, 1]), TokenIds([30, 40, 50], [0, 0, 0])]


def test_a_published_graph_gets_the_inputs_that_it_asks_for(tmp_path: Path) -> None:
    names = ["input_ids", "attention_mask", "token_type_ids", "position_ids"]
    path = _published(tmp_path / "m.onnx", names, ["last_hidden_state"])
    first, second = Encoder(path, pad_id=7, threads=1).hidden_states(BATCH)
    np.testing.assert_array_equal(first, [[11], [23]])
    np.testing.assert_array_equal(second, [[31], [42], [53]])


def test_padding_is_filled_with_the_models_id_and_masked(tmp_path: Path) -> None:
    path = _published(tmp_path / "m.onnx", ["input_ids", "attention_mask"], ["token_embeddings"])
    first, _ = Encoder(path, pad_id=7, threads=1).hidden_states(BATCH)
    whole: Any = first.base
    np.testing.assert_array_equal(whole[0], [[11], [21], [7]])


@pytest.mark.parametrize(
    ("inputs", "outputs", "sentence"),
    [
        (["input_ids", "pixels"], ["last_hidden_state"], "wants an input 'pixels'"),
        (["input_ids"], ["logits"], "none of them last_hidden_state or token_embeddings"),
    ],
)
def test_a_graph_that_is_no_encoder_is_refused(
    inputs: list[str], outputs: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnusable, match=sentence):
        Encoder(_published(tmp_path / "m.onnx", inputs, outputs), pad_id=0, threads=1)


def test_a_file_that_is_no_graph_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelUnusable, match="ONNX Runtime cannot load") as refusal:
        Encoder(tmp_path / "m.onnx", pad_id=0, threads=1)
    assert "\n" not in str(refusal.value)
