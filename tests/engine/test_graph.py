from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tei_manager.engine.encoder import Encoder
from tei_manager.engine.graph import write_graph
from tei_manager.engine.model import ModelUnusable
from tei_manager.engine.tokenizer import TokenIds


def _encoder(directory: Path, config: dict[str, Any]) -> Encoder:
    write_graph(config, directory / "model.safetensors", directory)
    return Encoder(directory / "model.onnx", pad_id=0, threads=1)


def _text(*ids: int) -> TokenIds:
    return TokenIds(list(ids), [0] * len(ids))


@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_the_fused_graph_computes_what_the_definition_says(
    activation: str, make_model: Callable[..., Any], forward: Callable[..., Any]
) -> None:
    directory, config, weights = make_model(hidden_act=activation)
    ids = [2, 4, 9, 5, 5, 13, 3]
    (states,) = _encoder(directory, config).hidden_states([_text(*ids)])
    np.testing.assert_allclose(states, forward(config, weights, ids), atol=1e-4, rtol=0)


def test_a_text_in_a_batch_gets_what_it_gets_alone(make_model: Callable[..., Any]) -> None:
    directory, config, _ = make_model()
    encoder = _encoder(directory, config)
    texts = [_text(2, 3), _text(2, *range(4, 14), *range(4, 14), 3), _text(2, 7, 8, 3)]
    together = encoder.hidden_states(texts)
    for text, states in zip(texts, together, strict=True):
        (alone,) = encoder.hidden_states([text])
        np.testing.assert_allclose(states, alone, atol=1e-5, rtol=0)


def test_names_with_the_prefix_of_a_head_model_are_found(make_model: Callable[..., Any]) -> None:
    directory, config, weights = make_model()
    plain = _encoder(directory, config).hidden_states([_text(2, 5, 3)])
    prefixed = {f"bert.{name}": value for name, value in weights.items()}
    save_file(prefixed, directory / "model.safetensors")
    np.testing.assert_array_equal(
        plain, _encoder(directory, config).hidden_states([_text(2, 5, 3)])
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "mpnet"}, "The model is of type 'mpnet' and has no onnx/model.onnx"),
        ({"hidden_act": "swish"}, "The activation 'swish' is not known"),
        ({"position_embedding_type": "relative_key"}, "of type 'relative_key' are not known"),
        ({"num_hidden_layers": 3}, "The weights lack the tensor 'encoder.layer.2."),
        ({"hidden_size": "wide"}, "config.json lacks a usable"),
        ({"hidden_size": 12}, "says 12 hidden units .* does not fit weights that are 16 wide"),
        ({"num_attention_heads": 5}, "5 heads, which does not fit weights that are 16 wide"),
    ],
)
def test_what_would_be_computed_wrong_is_refused_by_name(
    change: dict[str, Any], sentence: str, make_model: Callable[..., Any]
) -> None:
    directory, config, _ = make_model()
    with pytest.raises(ModelUnusable, match=sentence):
        write_graph(config | change, directory / "model.safetensors", directory)


def test_broken_weights_are_named(make_model: Callable[..., Any]) -> None:
    directory, config, _ = make_model()
    (directory / "model.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(ModelUnusable, match="Cannot read the weights"):
        write_graph(config, directory / "model.safetensors", directory)
