"""Tiny models with random weights, of every family and head that the engine knows.

    python tools/tiny_models.py FOLDER    # writes FOLDER/bert-embedding, FOLDER/mpnet-reranker, ...

Two layers, 16 wide, a few dozen words: they load in no time, mean nothing, and have all the parts
of a real model. The seed is fixed, so the same names always have the same weights.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tiny_tokenizers import TOKENIZERS

Weights = dict[str, NDArray[np.float32]]
Shapes = Iterator[tuple[str, tuple[int, ...]]]

FAMILIES = tuple(TOKENIZERS)
HEADS = ("embedding", "reranker", "classifier", "splade")

SEED = 7

_ARCHITECTURES = {
    "bert": "Bert",
    "distilbert": "DistilBert",
    "mpnet": "MPNet",
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
}
_SUFFIXES = {
    "embedding": "Model",
    "reranker": "ForSequenceClassification",
    "classifier": "ForSequenceClassification",
    "splade": "ForMaskedLM",
}
_LABELS = {"reranker": ["relevant"], "classifier": ["good", "bad", "neither"]}


class TinyModel(NamedTuple):
    """A model that was written: where, and what of."""

    directory: Path
    config: dict[str, Any]
    weights: Weights


def write(
    directory: Path, family: str = "bert", head: str = "embedding", **changes: Any
) -> TinyModel:
    """Write a model into a new directory.

    Args:
        directory: Must not exist.
        family: One of `FAMILIES`.
        head: One of `HEADS`.
        changes: Replace entries of ``config.json``.
    """
    directory.mkdir(parents=True)
    tokenizer = TOKENIZERS[family]()
    config = _config(family, head, tokenizer.get_vocab_size()) | changes
    random = np.random.default_rng(SEED)
    weights = {
        name: random.normal(0.0, 0.5, shape).astype(np.float32)
        for name, shape in _shapes(config, family, head)
    }
    (directory / "config.json").write_text(json.dumps(config))
    save_file(weights, directory / "model.safetensors")
    tokenizer.save(str(directory / "tokenizer.json"))
    if head == "embedding":
        _write_pooling(directory)
    return TinyModel(directory, config, weights)


def _write_pooling(directory: Path) -> None:
    (directory / "1_Pooling").mkdir()
    modes = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    (directory / "1_Pooling/config.json").write_text(json.dumps(modes))


def _config(family: str, head: str, vocabulary: int) -> dict[str, Any]:
    labels = _LABELS.get(head, [])
    config: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[family] + _SUFFIXES[head]],
        "model_type": family,
        "max_position_embeddings": 24,
        "pad_token_id": 0 if family in ("bert", "distilbert") else 1,
        "vocab_size": vocabulary,
    }
    if labels:
        config["id2label"] = {str(index): label for index, label in enumerate(labels)}
        config["label2id"] = {label: index for index, label in enumerate(labels)}
    return config | _sizes(family)


def _sizes(family: str) -> dict[str, Any]:
    if family == "distilbert":
        return {"activation": "gelu", "dim": 16, "hidden_dim": 32, "n_heads": 4, "n_layers": 2}
    sizes: dict[str, Any] = {
        "hidden_act": "gelu",
        "hidden_size": 16,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-12 if family == "bert" else 1e-5,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
    }
    if family == "mpnet":
        return sizes | {"relative_attention_num_buckets": 32}
    return sizes | {"type_vocab_size": 2 if family == "bert" else 1}


def _shapes(config: dict[str, Any], family: str, head: str) -> Shapes:
    size = config.get("hidden_size") or config["dim"]
    yield "embeddings.word_embeddings.weight", (config["vocab_size"], size)
    yield "embeddings.position_embeddings.weight", (config["max_position_embeddings"], size)
    if "type_vocab_size" in config:
        yield "embeddings.token_type_embeddings.weight", (config["type_vocab_size"], size)
    yield from _norm("embeddings.LayerNorm", size)
    if family == "mpnet":
        yield "encoder.relative_attention_bias.weight", (32, config["num_attention_heads"])
    wide = config.get("intermediate_size") or config["hidden_dim"]
    for index in range(config.get("num_hidden_layers") or config["n_layers"]):
        yield from _layer(family, index, size, wide)
    if head == "splade":
        yield from _masked_lm(family, size, config["vocab_size"])
    if "id2label" in config:
        yield from _classifier(family, size, len(config["id2label"]))


def _linear(name: str, out: int, into: int) -> Shapes:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _norm(name: str, size: int) -> Shapes:
    yield f"{name}.weight", (size,)
    yield f"{name}.bias", (size,)


def _layer(family: str, index: int, size: int, wide: int) -> Shapes:
    prefix = f"encoder.layer.{index}"
    match family:
        case "distilbert":
            prefix = f"transformer.layer.{index}"
            square = [f"attention.{name}_lin" for name in ("q", "k", "v", "out")]
            up, down, norms = "ffn.lin1", "ffn.lin2", ("sa_layer_norm", "output_layer_norm")
        case "mpnet":
            square = [f"attention.attn.{name}" for name in "qkvo"]
            up, down = "intermediate.dense", "output.dense"
            norms = ("attention.LayerNorm", "output.LayerNorm")
        case _:
            square = [f"attention.self.{name}" for name in ("query", "key", "value")]
            square.append("attention.output.dense")
            up, down = "intermediate.dense", "output.dense"
            norms = ("attention.output.LayerNorm", "output.LayerNorm")
    for name in square:
        yield from _linear(f"{prefix}.{name}", size, size)
    yield from _linear(f"{prefix}.{up}", wide, size)
    yield from _linear(f"{prefix}.{down}", size, wide)
    for name in norms:
        yield from _norm(f"{prefix}.{name}", size)


def _classifier(family: str, size: int, labels: int) -> Shapes:
    dense, out = {
        "bert": ("pooler.dense", "classifier"),
        "distilbert": ("pre_classifier", "classifier"),
    }.get(family, ("classifier.dense", "classifier.out_proj"))
    yield from _linear(dense, size, size)
    yield from _linear(out, labels, size)


def _masked_lm(family: str, size: int, vocabulary: int) -> Shapes:
    """The decoder is tied to the embeddings, but for MPNet, so that both ways are there."""
    dense, norm, bias = {
        "bert": (
            *("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm"),
            "cls.predictions.bias",
        ),
        "distilbert": ("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
    }.get(family, ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"))
    yield from _linear(dense, size, size)
    yield from _norm(norm, size)
    yield bias, (vocabulary,)
    if family == "mpnet":
        yield "lm_head.decoder.weight", (vocabulary, size)


def main() -> None:
    """Write one model for each family and head."""
    if len(sys.argv) != 2:
        sys.exit("usage: python tools/tiny_models.py FOLDER")
    for family in FAMILIES:
        for head in HEADS:
            print(write(Path(sys.argv[1]) / f"{family}-{head}", family, head).directory)


if __name__ == "__main__":
    main()
