from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tei_manager.engine.encoder import Encoder, Output
from tei_manager.engine.kinds import Head
from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.tokenizer import TokenIds


def _published(
    path: Path, inputs: list[str], outputs: list[str], kind: int = TensorProto.FLOAT
) -> Path:
    """Write a graph as exporters do: int64 inputs whose sum is every output."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in inputs
    ]
    results = [
        helper.make_tensor_value_info(name, kind, ["batch", "sequence", 1]) for name in outputs
    ]
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [2])
    nodes = [helper.make_node("Sum", [f"{name}.float" for name in inputs], ["sum"])]
    nodes = [
        helper.make_node("Cast", [name], [f"{name}.float"], to=kind) for name in inputs
    ] + nodes
    nodes += [helper.make_node("Unsqueeze", ["sum", "axes"], [name]) for name in outputs]
    graph = helper.make_graph(nodes, "published", values, results, [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


BATCH = [TokenIds([10, 20], [0, 1]), TokenIds([30, 40, 50], [0, 0, 0])]


def _tokens(outputs: list[Output]) -> list[Any]:
    return [output.tokens for output in outputs]


def test_a_published_graph_gets_the_inputs_that_it_asks_for(tmp_path: Path) -> None:
    names = ["input_ids", "attention_mask", "token_type_ids", "position_ids"]
    path = _published(tmp_path / "m.onnx", names, ["last_hidden_state"])
    first, second = _tokens(Encoder(path, Head.NONE, pad_id=7, threads=1).run(BATCH))
    np.testing.assert_array_equal(first, [[11], [23]])
    np.testing.assert_array_equal(second, [[31], [42], [53]])


def test_padding_is_filled_with_the_models_id_and_masked(tmp_path: Path) -> None:
    path = _published(tmp_path / "m.onnx", ["input_ids", "attention_mask"], ["token_embeddings"])
    first, _ = _tokens(Encoder(path, Head.NONE, pad_id=7, threads=1).run(BATCH))
    np.testing.assert_array_equal(first.base[0], [[11], [21], [7]])


def test_half_precision_leaves_as_single(tmp_path: Path) -> None:
    path = _published(tmp_path / "m.onnx", ["input_ids"], ["logits"], TensorProto.FLOAT16)
    (output, _) = Encoder(path, Head.MASKED_LM, pad_id=7, threads=1).run(BATCH)
    assert output.tokens is not None
    assert output.tokens.dtype == np.float32
    assert output.tokens.tolist() == [[10], [20]]


def _last_of_each(path: Path) -> Path:
    """Write a graph that takes the last column for the text's, as one for padding on the left."""
    rows = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "sequence"])
    result = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 1])
    last = helper.make_tensor("last", TensorProto.INT64, [1], [-1])
    nodes = [
        helper.make_node("Gather", ["input_ids", "last"], ["chosen"], axis=1),
        helper.make_node("Cast", ["chosen"], ["sentence_embedding"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(nodes, "published", [rows], [result], [last])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def test_a_graph_that_pools_for_padding_on_the_left_gets_none_at_all(tmp_path: Path) -> None:
    path = _last_of_each(tmp_path / "m.onnx")
    encoder = Encoder(path, Head.NONE, pad_id=7, threads=1, pads_left=True)
    batch = [*BATCH, TokenIds([60, 70], [0, 0])]
    texts = [output.text for output in encoder.run(batch)]
    np.testing.assert_array_equal(texts, [[20], [50], [70]])


@pytest.mark.parametrize(
    ("outputs", "head", "chosen"),
    [
        (["token_embeddings", "last_hidden_state"], Head.NONE, ["last_hidden_state"]),
        (
            ["token_embeddings", "sentence_embedding"],
            Head.NONE,
            ["sentence_embedding", "token_embeddings"],
        ),
        (["last_hidden_state", "logits"], Head.CLASSIFIER, ["logits"]),
    ],
)
def test_outputs_are_chosen_by_the_names_of_exporters(
    outputs: list[str], head: Head, chosen: list[str], tmp_path: Path
) -> None:
    encoder = Encoder(_published(tmp_path / "m.onnx", ["input_ids"], outputs), head, 0, 1)
    assert encoder._outputs == chosen


@pytest.mark.parametrize(
    ("inputs", "outputs", "head", "sentence"),
    [
        (["input_ids", "pixels"], ["last_hidden_state"], Head.NONE, "wants an input 'pixels'"),
        (["input_ids"], ["logits"], Head.NONE, "none of them .*last_hidden_state"),
        (["input_ids"], ["last_hidden_state"], Head.CLASSIFIER, "none of them logits"),
    ],
)
def test_a_graph_of_another_kind_is_refused(
    inputs: list[str], outputs: list[str], head: Head, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelUnusable, match=sentence):
        Encoder(_published(tmp_path / "m.onnx", inputs, outputs), head, pad_id=0, threads=1)


def test_a_file_that_is_no_graph_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelUnusable, match="ONNX Runtime cannot load") as refusal:
        Encoder(tmp_path / "m.onnx", Head.NONE, pad_id=0, threads=1)
    assert "\n" not in str(refusal.value)
