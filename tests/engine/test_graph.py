from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from plain_nodes import PlainNodes
from safetensors.numpy import save_file

import numpy_encoder
from tei_manager.engine.checkpoint import weight_files
from tei_manager.engine.encoder import Encoder, Output
from tei_manager.engine.graph.nodes import Nodes
from tei_manager.engine.graph.writer import write_graph
from tei_manager.engine.kinds import Head
from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.tokenizer import TokenIds
from tiny_models import FAMILIES, HEADS, TinyModel, write

HEAD_OF = {
    "embedding": Head.NONE,
    "reranker": Head.CLASSIFIER,
    "classifier": Head.CLASSIFIER,
    "splade": Head.MASKED_LM,
}
ORACLES: dict[str, Any] = {
    "embedding": numpy_encoder.forward,
    "reranker": numpy_encoder.classify,
    "classifier": numpy_encoder.classify,
    "splade": numpy_encoder.masked_lm,
}

IDS = [2, 4, 9, 5, 5, 13, 3]


def _encoder(model: TinyModel, head: str = "embedding", kind: type[Nodes] = Nodes) -> Encoder:
    write_graph(model.config, HEAD_OF[head], weight_files(model.directory), model.directory, kind)
    pad_id = model.config["pad_token_id"]
    return Encoder(model.directory / "model.onnx", HEAD_OF[head], pad_id, threads=1)


def _text(*ids: int, types: list[int] | None = None) -> TokenIds:
    return TokenIds(list(ids), types or [0] * len(ids))


def _values(output: Output) -> NDArray[np.float32]:
    found = output.tokens if output.text is None else output.text
    assert found is not None
    return found


def _one(encoder: Encoder, text: TokenIds) -> NDArray[np.float32]:
    (output,) = encoder.run([text])
    return _values(output)


@pytest.mark.parametrize("kind", [Nodes, PlainNodes])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_graph_computes_what_the_definition_says_fused_or_not(
    family: str, head: str, kind: type[Nodes], tmp_path: Path
) -> None:
    model = write(tmp_path / "m", family, head)
    found = _one(_encoder(model, head, kind), _text(*IDS))
    expected = ORACLES[head](model.config, model.weights, IDS)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [Nodes, PlainNodes])
@pytest.mark.parametrize("activation", ["relu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"])
@pytest.mark.parametrize("head", ["embedding", "splade"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_activation_is_used_where_the_definition_has_it(
    family: str, head: str, activation: str, kind: type[Nodes], tmp_path: Path
) -> None:
    key = "activation" if family == "distilbert" else "hidden_act"
    model = write(tmp_path / "m", family, head, **{key: activation})
    expected = ORACLES[head](model.config, model.weights, IDS)
    found = _one(_encoder(model, head, kind), _text(*IDS))
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def test_the_second_text_of_a_pair_has_its_own_type(tmp_path: Path) -> None:
    model = write(tmp_path / "m", "bert", "reranker")
    types = [0, 0, 0, 1, 1, 1, 1]
    found = _one(_encoder(model, "reranker"), _text(*IDS, types=types))
    expected = numpy_encoder.classify(model.config, model.weights, IDS, types)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)
    assert abs(found - numpy_encoder.classify(model.config, model.weights, IDS)).max() > 1e-3


def test_distances_beyond_the_farthest_that_was_learnt_share_its_bias(tmp_path: Path) -> None:
    model = write(tmp_path / "m", "mpnet", max_position_embeddings=302)
    ids = [2, *(4 + n % 10 for n in range(298)), 3]
    expected = numpy_encoder.forward(model.config, model.weights, ids)
    np.testing.assert_allclose(_one(_encoder(model), _text(*ids)), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_in_a_batch_gets_what_it_gets_alone(
    family: str, head: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    encoder = _encoder(write(tmp_path_factory.mktemp("m") / "m", family, head), head)

    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.lists(st.integers(0, 14), min_size=1, max_size=20), min_size=2, max_size=6))
    def hold(rows: list[list[int]]) -> None:
        texts = [_text(*row) for row in rows]
        for text, output in zip(texts, encoder.run(texts), strict=True):
            np.testing.assert_allclose(_values(output), _one(encoder, text), atol=1e-5, rtol=0)

    hold()


@pytest.mark.parametrize("family", FAMILIES)
def test_names_with_the_prefix_of_a_head_model_are_found(family: str, tmp_path: Path) -> None:
    model = write(tmp_path / "m", family)
    plain = _one(_encoder(model), _text(*IDS))
    prefix = {"xlm-roberta": "roberta"}.get(family, family)
    prefixed = {f"{prefix}.{name}": value for name, value in model.weights.items()}
    save_file(prefixed, model.directory / "model.safetensors")
    np.testing.assert_array_equal(plain, _one(_encoder(model), _text(*IDS)))


def test_the_old_names_of_a_norms_tensors_are_found(tmp_path: Path) -> None:
    model = write(tmp_path / "m")
    plain = _one(_encoder(model), _text(*IDS))
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in model.weights.items()
    }
    save_file(old, model.directory / "model.safetensors")
    np.testing.assert_array_equal(plain, _one(_encoder(model), _text(*IDS)))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "t5"}, "The model is of type 't5' and has no onnx/model.onnx"),
        ({"hidden_act": "swish"}, "The activation 'swish' is not known"),
        ({"position_embedding_type": "relative_key"}, "of type 'relative_key' are not known"),
        ({"num_hidden_layers": 3}, "The weights lack the tensor 'encoder.layer.2."),
        ({"hidden_size": "wide"}, "must have a positive integer `hidden_size`"),
        ({"num_attention_heads": 0}, "must have a positive integer `num_attention_heads`"),
        ({"layer_norm_eps": "small"}, "config.json lacks a usable 'layer_norm_eps'"),
        ({"hidden_size": 12}, "says 12 hidden units .* does not fit weights that are 16 wide"),
        ({"num_attention_heads": 5}, "5 heads, which does not fit weights that are 16 wide"),
    ],
)
def test_what_would_be_computed_wrong_is_refused_by_name(
    change: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    model = write(tmp_path / "m")
    weights = [model.directory / "model.safetensors"]
    with pytest.raises(ModelUnusable, match=sentence):
        write_graph(model.config | change, Head.NONE, weights, tmp_path)


def test_a_head_that_the_weights_lack_is_refused_by_name(tmp_path: Path) -> None:
    model = write(tmp_path / "m")
    weights = [model.directory / "model.safetensors"]
    for head, tensor in ((Head.CLASSIFIER, "pooler.dense"), (Head.MASKED_LM, "cls.predictions")):
        with pytest.raises(ModelUnusable, match=f"The weights lack the tensor '{tensor}"):
            write_graph(model.config, head, weights, tmp_path)


def test_broken_weights_are_named(tmp_path: Path) -> None:
    model = write(tmp_path / "m")
    weights = [model.directory / "model.safetensors"]
    weights[0].write_bytes(b"no tensors at all")
    with pytest.raises(ModelUnusable, match="Cannot read the weights"):
        write_graph(model.config, Head.NONE, weights, tmp_path)
