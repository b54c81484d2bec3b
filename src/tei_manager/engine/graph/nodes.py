"""The operators of a graph under construction, most of them ONNX Runtime's fused ones.

A node is appended in order of execution; every method returns the name of what it computes, so that
a graph reads like the formula. The fused operators (domain ``com.microsoft``) are just what the
layers of an encoder draw: embeddings with their norm, attention, skip with norm, bias with
activation. What runs is therefore what is written, and the runtime's optimiser has nothing to find.

Constants of some size go into a file of their own as soon as they are known: the runtime maps it
into memory, and building a graph needs memory for one tensor at a time, however large the model is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tei_manager.engine.graph.weights import Weights

# What `hidden_act` may be, and the fused operator that adds a bias and applies it: the first is
# the erf form, those behind it the tanh form. For the last there is none.
ACTIVATIONS = {
    "gelu": "BiasGelu",
    "gelu_new": "FastGelu",
    "gelu_fast": "FastGelu",
    "gelu_pytorch_tanh": "FastGelu",
    "relu": None,
}

# Bytes below which a constant stays in the graph, and to a multiple of which the others begin in
# their file; pages are what the runtime maps.
_SMALL = 1024
_PAGE = 4096


class Nodes:
    """Nodes in order of execution, and their constants.

    Args:
        weights: The tensors of the checkpoint.
        epsilon: What norms add to the variance.
        data: Takes the large constants; named as the graph will name it, and closed by the caller.
    """

    def __init__(self, weights: Weights, epsilon: float, data: BinaryIO) -> None:
        self._data = data
        self.weights = weights
        self.epsilon = epsilon
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str) -> str:
        """Make a tensor of the checkpoint a constant of the graph, once."""
        return self.add(name, self.weights(name))

    def add(self, name: str, value: NDArray[Any]) -> str:
        """Make an array a constant of the graph; the same name means the same array."""
        if all(constant.name != name for constant in self.constants):
            array = np.asarray(value, order="C")
            small = array.nbytes < _SMALL
            self.constants.append(
                numpy_helper.from_array(array, name) if small else self._written(name, array)
            )
        return name

    def _written(self, name: str, array: NDArray[Any]) -> onnx.TensorProto:
        """Write an array to the file and return what stands for it in the graph."""
        offset = -(-self._data.tell() // _PAGE) * _PAGE
        self._data.seek(offset)
        self._data.write(array.data)
        tensor = TensorProto(
            name=name,
            dims=array.shape,
            data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": Path(self._data.name).name, "offset": offset, "length": array.nbytes}
        for key, number in place.items():
            tensor.external_data.add(key=key, value=str(number))
        return tensor

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Append an operator of ONNX itself."""
        self.nodes.append(helper.make_node(kind, inputs, [output], output, **attributes))
        return output

    def product(self, name: str, value: str) -> str:
        """Multiply by a weight; checkpoints keep it as (out, in), ONNX wants (in, out)."""
        weight = self.add(f"{name}.weight", self.weights(f"{name}.weight").T)
        return self.node("MatMul", [value, weight], f"{name}.product")

    def linear(self, name: str, value: str, output: str) -> str:
        """Multiply by a weight and add its bias."""
        product = self.product(name, value)
        return self.node("Add", [product, self.constant(f"{name}.bias")], output)

    def norm(self, name: str, value: str, output: str) -> str:
        """Normalise each vector."""
        inputs = [value, *self._scale_and_shift(name)]
        return self.node("LayerNormalization", inputs, output, axis=-1, epsilon=self.epsilon)

    def embed(self, tables: list[str], norm: str, output: str) -> str:
        """Add the embeddings of ids, positions and, with a third table, types; normalise.

        Args:
            tables: Names of constants: words, positions and, where the family has them, types.
            norm: The norm's name.
            output: What to call the result.
        """
        words, positions, types = (*tables, "")[:3]
        inputs = ["input_ids", "token_type_ids" if types else "", words, positions, types]
        inputs += self._scale_and_shift(norm)
        # The second output, a mask index, is required by the operator and used by nobody.
        self._fused("EmbedLayerNormalization", inputs, [output, "unused"], epsilon=self.epsilon)
        return output

    def attention(self, hidden: str, packed: list[str], heads: int, bias: str, output: str) -> str:
        """Attend to all tokens that the mask allows.

        Args:
            hidden: What is attended to.
            packed: Weight and bias of query, key and value, side by side.
            heads: How many heads there are.
            bias: Is added to the scores, (1, heads, sequence, sequence); none if empty.
            output: What to call the result.
        """
        inputs = [hidden, *packed, "attention_mask", *(["", bias] if bias else [])]
        self._fused("Attention", inputs, [output], num_heads=heads)
        return output

    def activate(self, activation: str, value: str, bias: str, output: str) -> str:
        """Add a bias and apply an activation, a key of `ACTIVATIONS`."""
        if (fused := ACTIVATIONS[activation]) is None:
            return self.node("Relu", [self.node("Add", [value, bias], f"{output}.x")], output)
        self._fused(fused, [value, bias], [output])
        return output

    def skip_norm(self, value: str, residual: str, norm: str, bias: str, output: str) -> str:
        """Add a bias and what a half of a layer was given; normalise."""
        inputs = [value, residual, *self._scale_and_shift(norm), bias]
        self._fused("SkipLayerNormalization", inputs, [output], epsilon=self.epsilon)
        return output

    def _scale_and_shift(self, norm: str) -> list[str]:
        return [self.constant(f"{norm}.weight"), self.constant(f"{norm}.bias")]

    def _fused(self, kind: str, inputs: list[str], outputs: list[str], **attributes: Any) -> None:
        attributes |= {"name": outputs[0], "domain": "com.microsoft"}
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
