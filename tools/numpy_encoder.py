"""Encoders and their heads in plain NumPy and float64: the second opinion on the engine's graphs.

Written from the models' definitions and their tensors' names alone, one text at a time, without
padding, batching or fused anything; slow, and easy to check by eye. It shares no code and no table
with the engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[Any]]
Config = Mapping[str, Any]

# What stands for each part of a layer: query, key, value, output, norm, wide, narrow, norm.
_BERT = (
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    *("attention.output.dense", "attention.output.LayerNorm"),
    *("intermediate.dense", "output.dense", "output.LayerNorm"),
)
_MPNET = (
    *(f"attention.attn.{name}" for name in "qkvo"),
    *("attention.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm"),
)
_DISTILBERT = (
    *(f"attention.{name}_lin" for name in ("q", "k", "v", "out")),
    *("sa_layer_norm", "ffn.lin1", "ffn.lin2", "output_layer_norm"),
)
_PARTS = {"distilbert": _DISTILBERT, "mpnet": _MPNET}


def forward(
    config: Config, weights: Weights, ids: Sequence[int], types: Sequence[int] = ()
) -> Array:
    """Return the last hidden states of one text: (tokens, hidden size).

    Args:
        config: The model's ``config.json``; its activation is ``relu`` or a form of ``gelu``.
        weights: The tensors of its checkpoint, by name, without the family's prefix.
        ids: Token ids, special ones included.
        types: Token types; all 0 if none are given.
    """
    tensors = _wide(weights)
    family = config["model_type"]
    table = "embeddings.{}_embeddings.weight".format
    first = config["pad_token_id"] + 1 if family in ("roberta", "xlm-roberta", "mpnet") else 0
    hidden = tensors[table("word")][list(ids)]
    hidden = hidden + tensors[table("position")][first : first + len(ids)]
    if table("token_type") in tensors:
        hidden = hidden + tensors[table("token_type")][list(types) or [0] * len(ids)]
    hidden = _norm(tensors, "embeddings.LayerNorm", hidden, _epsilon(config))
    bias = _distances(tensors, len(ids)) if family == "mpnet" else np.zeros(1)
    stem = "transformer.layer" if family == "distilbert" else "encoder.layer"
    for index in range(config.get("num_hidden_layers") or config["n_layers"]):
        hidden = _layer(config, tensors, f"{stem}.{index}", hidden, bias)
    return hidden


def classify(
    config: Config, weights: Weights, ids: Sequence[int], types: Sequence[int] = ()
) -> Array:
    """Return the logits of a sequence classifier, one for each label; arguments as `forward`."""
    tensors = _wide(weights)
    first = forward(config, weights, ids, types)[0]
    match config["model_type"]:
        case "bert":
            pooled = np.tanh(_linear(tensors, "pooler.dense", first))
            return _linear(tensors, "classifier", pooled)
        case "distilbert":
            pooled = np.maximum(_linear(tensors, "pre_classifier", first), 0)
            return _linear(tensors, "classifier", pooled)
    return _linear(
        tensors, "classifier.out_proj", np.tanh(_linear(tensors, "classifier.dense", first))
    )


def splade(config: Config, weights: Weights, ids: Sequence[int]) -> Array:
    """Return a text's weight for each entry of the vocabulary; arguments as `forward`."""
    logits = masked_lm(config, weights, ids)
    result: Array = np.log1p(np.maximum(logits, 0)).max(axis=0)
    return result


def masked_lm(config: Config, weights: Weights, ids: Sequence[int]) -> Array:
    """Return a masked language model's logits, (tokens, vocabulary); arguments as `forward`."""
    tensors = _wide(weights)
    dense, norm, decoder, bias = {
        "bert": (
            *("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
            *("cls.predictions.decoder.weight", "cls.predictions.bias"),
        ),
        "distilbert": (
            *("vocab_transform", "vocab_layer_norm"),
            *("vocab_projector.weight", "vocab_projector.bias"),
        ),
    }.get(
        config["model_type"],
        ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.weight", "lm_head.bias"),
    )
    hidden = _linear(tensors, dense, forward(config, weights, ids))
    # RoBERTa's and MPNet's heads are written with the erf form, whatever the layers have.
    named = config["model_type"] in ("bert", "distilbert")
    hidden = _activate(config, hidden) if named else _gelu(hidden)
    hidden = _norm(tensors, norm, hidden, _epsilon(config))
    table = tensors.get(decoder, tensors["embeddings.word_embeddings.weight"])
    logits: Array = hidden @ table.T + tensors[bias]
    return logits


def _wide(weights: Weights) -> dict[str, Array]:
    return {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}


def _epsilon(config: Config) -> float:
    return float(config.get("layer_norm_eps", 1e-12))


def _layer(
    config: Config, tensors: Mapping[str, Array], prefix: str, hidden: Array, bias: Array
) -> Array:
    names = [f"{prefix}.{part}" for part in _PARTS.get(config["model_type"], _BERT)]
    *inputs, output, attention_norm, wide, narrow, norm = names
    heads = config.get("num_attention_heads") or config["n_heads"]
    attended = _attention(tensors, inputs, hidden, heads, bias)
    attended = _linear(tensors, output, attended)
    hidden = _norm(tensors, attention_norm, hidden + attended, _epsilon(config))
    activated = _activate(config, _linear(tensors, wide, hidden))
    return _norm(tensors, norm, hidden + _linear(tensors, narrow, activated), _epsilon(config))


def _attention(
    tensors: Mapping[str, Array], names: Sequence[str], hidden: Array, heads: int, bias: Array
) -> Array:
    length, size = hidden.shape
    query, key, value = (
        _linear(tensors, name, hidden).reshape(length, heads, size // heads).transpose(1, 0, 2)
        for name in names
    )
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(size // heads) + bias
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = scores / scores.sum(axis=-1, keepdims=True)
    mixed: Array = (shares @ value).transpose(1, 0, 2).reshape(length, size)
    return mixed


def _distances(tensors: Mapping[str, Array], length: int) -> Array:
    """Return MPNet's bias for each head and each pair of tokens, (heads, length, length)."""
    table = tensors["encoder.relative_attention_bias.weight"]
    bias = np.empty((table.shape[1], length, length))
    for row in range(length):
        for column in range(length):
            bias[:, row, column] = table[_bucket(column - row, len(table))]
    return bias


def _bucket(distance: int, buckets: int) -> int:
    """Return the row for a distance: later tokens have the second half of the table."""
    start, half = (buckets // 2 if distance > 0 else 0), buckets // 2
    away, exact = abs(distance), half // 2
    if away < exact:
        return start + away
    far = exact + int(math.log(away / exact) / math.log(128 / exact) * (half - exact) + 1e-9)
    return start + min(far, half - 1)


def _activate(config: Config, value: Array) -> Array:
    name = config.get("hidden_act") or config["activation"]
    if name == "relu":
        return np.maximum(value, 0)
    return _gelu(value) if name == "gelu" else _gelu_tanh(value)


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
