"""Write the ONNX graph of a BERT encoder from ``config.json`` and ``model.safetensors``.

A published repository that has no ONNX file has weights and a description; this file joins them.
The graph has one node for each thing that a BERT paper draws: embeddings with their norm,
attention, skip and norm, feed-forward with its activation. ONNX Runtime has exactly these as fused
operators (domain ``com.microsoft``), so what runs is what is written, and the runtime's optimiser
has nothing left to find.

Interface of the graph
    ``input_ids``, ``token_type_ids``, ``attention_mask``: int32, (batch, sequence), mask 1 for
    tokens and 0 for padding. ``last_hidden_state``: float32, (batch, sequence, hidden). Rows are
    filled on the right; what stands in a padded place changes nothing, because ``Attention`` adds
    -10,000 to its scores and ``exp`` of that is zero in float32.

Exactness
    ``BiasGelu`` is the erf form, ``FastGelu`` the tanh form with the constants of ``gelu_new``; the
    names in ``hidden_act`` choose between them, and an unknown name is refused. Both are held
    against a plain NumPy forward pass in ``tests/engine/test_graph.py``.

Known limits
    BERT itself: absolute positions, no decoder, no head. Other families need other tensor names
    and, for RoBERTa, a position table cut behind its padding index.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors import SafetensorError, safe_open

from tei_manager.engine.model import ModelUnusable

Weights = Callable[[str], NDArray[np.float32]]

# The opsets that the fused operators were written for; old enough for every supported runtime.
_OPSET = 17
_IR_VERSION = 9

# How `hidden_act` is computed: the fused operator that adds the bias and applies it.
_ACTIVATIONS = {
    "gelu": "BiasGelu",
    "gelu_new": "FastGelu",
    "gelu_fast": "FastGelu",
    "gelu_pytorch_tanh": "FastGelu",
}

# Tensors below this size stay in the graph file; the rest lie beside it, where the runtime maps
# them into memory instead of copying them.
_EXTERNAL_BYTES = 1024


def write_graph(architecture: Mapping[str, Any], weights: Path, target: Path) -> None:
    """Write ``model.onnx`` and ``weights.bin`` into the directory ``target``.

    Args:
        architecture: The model's ``config.json``.
        weights: Its ``model.safetensors``.
        target: An existing directory.

    Raises:
        ModelUnusable: The family or activation is not known here, or a tensor is missing or has
            the wrong shape.
        OSError: ``target`` cannot be written.
    """
    try:
        with safe_open(weights, "np") as file:
            graph = _Bert(architecture, _reader(file)).model()
    except SafetensorError as error:
        raise ModelUnusable(f"Cannot read the weights in '{weights}': {error}") from error
    onnx.save(
        graph,
        target / "model.onnx",
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=_EXTERNAL_BYTES,
    )


def _reader(file: Any) -> Weights:
    """Return a function from a tensor's name to its float32 values, with or without ``bert.``."""
    names = set(file.keys())

    def read(name: str) -> NDArray[np.float32]:
        for candidate in (name, f"bert.{name}"):
            if candidate in names:
                return np.asarray(file.get_tensor(candidate), dtype=np.float32)
        raise ModelUnusable(f"The weights lack the tensor '{name}'")

    return read


class _Bert:
    """A graph under construction: nodes in order of execution, and their constants."""

    def __init__(self, architecture: Mapping[str, Any], weights: Weights) -> None:
        _refuse_unknown(architecture)
        try:
            self._layers = int(architecture["num_hidden_layers"])
            self._heads = int(architecture["num_attention_heads"])
            self._hidden = int(architecture["hidden_size"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelUnusable(f"config.json lacks a usable {error}") from error
        self._epsilon = float(architecture.get("layer_norm_eps", 1e-12))
        self._activation = _ACTIVATIONS[architecture.get("hidden_act", "gelu")]
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []

    def model(self) -> onnx.ModelProto:
        """Return the whole model."""
        hidden = self._embeddings()
        for index in range(self._layers):
            last = index == self._layers - 1
            hidden = self._layer(index, hidden, "last_hidden_state" if last else f"hidden.{index}")
        graph = helper.make_graph(
            self._nodes,
            "bert",
            [_input(name) for name in ("input_ids", "token_type_ids", "attention_mask")],
            [_output("last_hidden_state", self._hidden)],
            self._constants,
        )
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)

    def _embeddings(self) -> str:
        prefix = "embeddings"
        tables = [
            self._constant(f"{prefix}.{name}.weight")
            for name in ("word_embeddings", "position_embeddings", "token_type_embeddings")
        ]
        width = self._weights(f"{prefix}.word_embeddings.weight").shape[-1]
        if width != self._hidden or width % self._heads:
            raise ModelUnusable(
                f"config.json says {self._hidden} hidden units and {self._heads} heads, which does"
                f" not fit weights that are {width} wide"
            )
        norm = self._norm(f"{prefix}.LayerNorm")
        inputs = ["input_ids", "token_type_ids", *tables, *norm]
        # The second output, a mask index, is required by the operator and used by nobody.
        self._fused(
            "EmbedLayerNormalization", inputs, ["embedded", "unused"], epsilon=self._epsilon
        )
        return "embedded"

    def _layer(self, index: int, hidden: str, output: str) -> str:
        """Append one encoder layer that reads ``hidden`` and writes ``output``."""
        prefix = f"encoder.layer.{index}"
        attended = self._attention(prefix, hidden)
        middle = self._project(f"{prefix}.attention.output", attended, hidden, f"{prefix}.middle")
        expanded = self._product(f"{prefix}.intermediate.dense", middle)
        activated = f"{prefix}.activated"
        bias = self._constant(f"{prefix}.intermediate.dense.bias")
        self._fused(self._activation, [expanded, bias], [activated])
        return self._project(f"{prefix}.output", activated, middle, output)

    def _attention(self, prefix: str, hidden: str) -> str:
        """Append self-attention; query, key and value are one product, side by side."""
        parts = [f"{prefix}.attention.self.{name}" for name in ("query", "key", "value")]
        weight = np.concatenate([self._weights(f"{part}.weight").T for part in parts], axis=1)
        bias = np.concatenate([self._weights(f"{part}.bias") for part in parts])
        inputs = [
            hidden,
            self._add(f"{prefix}.attention.weight", weight),
            self._add(f"{prefix}.attention.bias", bias),
            "attention_mask",
        ]
        self._fused("Attention", inputs, [f"{prefix}.attended"], num_heads=self._heads)
        return f"{prefix}.attended"

    def _project(self, prefix: str, value: str, residual: str, output: str) -> str:
        """Append the product, bias, residual and norm that end each half of a layer."""
        product = self._product(f"{prefix}.dense", value)
        norm = self._norm(f"{prefix}.LayerNorm")
        inputs = [product, residual, *norm, self._constant(f"{prefix}.dense.bias")]
        self._fused("SkipLayerNormalization", inputs, [output], epsilon=self._epsilon)
        return output

    def _product(self, prefix: str, value: str) -> str:
        """Append a matrix product; checkpoints keep weights as (out, in), ONNX wants (in, out)."""
        weight = self._add(f"{prefix}.weight", self._weights(f"{prefix}.weight").T)
        self._nodes.append(helper.make_node("MatMul", [value, weight], [f"{prefix}.product"]))
        return f"{prefix}.product"

    def _norm(self, prefix: str) -> list[str]:
        return [self._constant(f"{prefix}.weight"), self._constant(f"{prefix}.bias")]

    def _constant(self, name: str) -> str:
        return self._add(name, self._weights(name))

    def _add(self, name: str, value: NDArray[np.float32]) -> str:
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _fused(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        node = helper.make_node(kind, inputs, outputs, domain="com.microsoft", **attributes)
        self._nodes.append(node)


def _refuse_unknown(architecture: Mapping[str, Any]) -> None:
    """Raise for what the graph would get wrong without anybody noticing."""
    family = architecture.get("model_type")
    if family != "bert":
        raise ModelUnusable(
            f"The model is of type '{family}' and has no onnx/model.onnx; without that file"
            " tei-engine runs models of type 'bert'"
        )
    positions = architecture.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ModelUnusable(f"Position embeddings of type '{positions}' are not known")
    activation = architecture.get("hidden_act", "gelu")
    if activation not in _ACTIVATIONS:
        raise ModelUnusable(f"The activation '{activation}' is not known")


def _input(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "sequence"])


def _output(name: str, hidden: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "sequence", hidden])
