"""BERT in plain NumPy and float64: the second opinion against which the engine's graph is held.

Written from the model's definition and the tensors' names alone, one text at a time, without
padding, batching or fused anything; slow, and easy to check by eye.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]


def forward(config: Mapping[str, Any], weights: Weights, ids: list[int]) -> Array:
    """Return the last hidden states of one text: (tokens, hidden size).

    Args:
        config: The model's ``config.json``; ``hidden_act`` is ``gelu`` or ``gelu_new``.
        weights: The tensors of its checkpoint, by name.
        ids: Token ids, special ones included; all of type 0.
    """
    tensors = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
    epsilon = config["layer_norm_eps"]
    table = "embeddings.{}_embeddings.weight".format
    hidden = tensors[table("word")][ids] + tensors[table("position")][: len(ids)]
    hidden = hidden + tensors[table("token_type")][0]
    hidden = _norm(tensors, "embeddings.LayerNorm", hidden, epsilon)
    for index in range(config["num_hidden_layers"]):
        hidden = _layer(config, tensors, f"encoder.layer.{index}", hidden)
    return hidden


def _layer(
    config: Mapping[str, Any], tensors: Mapping[str, Array], prefix: str, hidden: Array
) -> Array:
    epsilon = config["layer_norm_eps"]
    attended = _attention(tensors, prefix, hidden, config["num_attention_heads"])
    attended = _linear(tensors, f"{prefix}.attention.output.dense", attended)
    hidden = _norm(tensors, f"{prefix}.attention.output.LayerNorm", hidden + attended, epsilon)
    wide = _linear(tensors, f"{prefix}.intermediate.dense", hidden)
    activated = _gelu(wide) if config["hidden_act"] == "gelu" else _gelu_tanh(wide)
    narrow = _linear(tensors, f"{prefix}.output.dense", activated)
    return _norm(tensors, f"{prefix}.output.LayerNorm", hidden + narrow, epsilon)


def _attention(tensors: Mapping[str, Array], prefix: str, hidden: Array, heads: int) -> Array:
    length, size = hidden.shape
    query, key, value = (
        _linear(tensors, f"{prefix}.attention.self.{name}", hidden)
        .reshape(length, heads, size // heads)
        .transpose(1, 0, 2)
        for name in ("query", "key", "value")
    )
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(size // heads)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = scores / scores.sum(axis=-1, keepdims=True)
    mixed: Array = (shares @ value).transpose(1, 0, 2).reshape(length, size)
    return mixed


def _linear(tensors: Mapping[str, Array], prefix: str, value: Array) -> Array:
    product: Array = value @ tensors[f"{prefix}.weight"].T + tensors[f"{prefix}.bias"]
    return product


def _norm(tensors: Mapping[str, Array], prefix: str, value: Array, epsilon: float) -> Array:
    centred = value - value.mean(axis=-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + epsilon)
    scaled: Array = centred / spread * tensors[f"{prefix}.weight"] + tensors[f"{prefix}.bias"]
    return scaled


def _gelu(value: Array) -> Array:
    erf = np.vectorize(math.erf, otypes=[np.float64])
    result: Array = value * 0.5 * (1.0 + erf(value / math.sqrt(2.0)))
    return result


def _gelu_tanh(value: Array) -> Array:
    inner = math.sqrt(2.0 / math.pi) * (value + 0.044715 * value**3)
    result: Array = 0.5 * value * (1.0 + np.tanh(inner))
    return result
