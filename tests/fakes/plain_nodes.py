"""The operators of a graph without ONNX Runtime's fused ones: the same formulas, step by step."""

from __future__ import annotations

import math

import numpy as np
import onnx

from tei_manager.engine.graph.nodes import Nodes


class PlainNodes(Nodes):
    """What `Nodes` does by a fused operator, here by operators of the ONNX standard alone."""

    def _number(self, value: float) -> str:
        return self.add(f"number.{value}", np.array(value, dtype=np.float32))

    def _indices(self, *values: int) -> str:
        return self.add(f"indices.{values}", np.array(values, dtype=np.int64))

    def embed(self, tables: list[str], norm: str, output: str) -> str:
        words, positions, *types = tables
        total = self.node("Gather", [words, "input_ids"], f"{output}.words")
        shape = self.node("Shape", ["input_ids"], f"{output}.shape")
        end = self.node("Slice", [shape, self._indices(1), self._indices(2)], f"{output}.end")
        rows = self.node("Slice", [positions, self._indices(0), end], f"{output}.rows")
        total = self.node("Add", [total, rows], f"{output}.placed")
        for table in types:
            kinds = self.node("Gather", [table, "token_type_ids"], f"{output}.types")
            total = self.node("Add", [total, kinds], f"{output}.typed")
        return self.norm(norm, total, output)

    def attention(self, hidden: str, packed: list[str], heads: int, bias: str, output: str) -> str:
        weight, shift = packed
        width = self.constants_by_name()[weight].dims[0]
        product = self.node("MatMul", [hidden, weight], f"{output}.product")
        shifted = self.node("Add", [product, shift], f"{output}.shifted")
        query, key, value = (
            self._heads(shifted, part, width, heads, f"{output}.{part}") for part in range(3)
        )
        turned = self.node("Transpose", [key], f"{output}.turned", perm=[0, 1, 3, 2])
        scores = self.node("MatMul", [query, turned], f"{output}.scores")
        root = self._number(math.sqrt(width // heads))
        scores = self.node("Div", [scores, root], f"{output}.scaled")
        if bias:
            scores = self.node("Add", [scores, bias], f"{output}.biased")
        scores = self.node("Add", [scores, self._hidden(output)], f"{output}.masked")
        shares = self.node("Softmax", [scores], f"{output}.shares", axis=-1)
        mixed = self.node("MatMul", [shares, value], f"{output}.mixed")
        mixed = self.node("Transpose", [mixed], f"{output}.joined", perm=[0, 2, 1, 3])
        return self.node("Reshape", [mixed, self._indices(0, 0, width)], output)

    def _heads(self, packed: str, part: int, width: int, heads: int, name: str) -> str:
        """Cut one of three parts out and give each head its own: (batch, heads, tokens, size)."""
        limits = [self._indices(part * width), self._indices((part + 1) * width)]
        chosen = self.node("Slice", [packed, *limits, self._indices(2)], f"{name}.cut")
        shape = self._indices(0, 0, heads, width // heads)
        split = self.node("Reshape", [chosen, shape], f"{name}.split")
        return self.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])

    def _hidden(self, output: str) -> str:
        """Return what to add to the scores: nothing for tokens, a lot less for padding."""
        mask = self.node("Cast", ["attention_mask"], f"{output}.mask", to=1)
        inverse = self.node("Sub", [self._number(1), mask], f"{output}.inverse")
        scaled = self.node("Mul", [inverse, self._number(-1e4)], f"{output}.low")
        return self.node("Unsqueeze", [scaled, self._indices(1, 2)], f"{output}.wide")

    def activate(self, activation: str, value: str, bias: str, output: str) -> str:
        x = self.node("Add", [value, bias], f"{output}.x")
        if activation == "relu":
            return self.node("Max", [x, self._number(0)], output)
        if activation == "gelu":
            ratio = self.node("Div", [x, self._number(math.sqrt(2))], f"{output}.ratio")
            curve = self.node("Erf", [ratio], f"{output}.curve")
        else:
            curve = self._tanh(x, output)
        raised = self.node("Add", [curve, self._number(1)], f"{output}.raised")
        half = self.node("Mul", [x, self._number(0.5)], f"{output}.half")
        return self.node("Mul", [half, raised], output)

    def _tanh(self, x: str, output: str) -> str:
        cube = self.node("Pow", [x, self._number(3)], f"{output}.cube")
        part = self.node("Mul", [cube, self._number(0.044715)], f"{output}.part")
        total = self.node("Add", [x, part], f"{output}.total")
        factor = self._number(math.sqrt(2 / math.pi))
        return self.node(
            "Tanh", [self.node("Mul", [total, factor], f"{output}.inner")], f"{output}.curve"
        )

    def skip_norm(self, value: str, residual: str, norm: str, bias: str, output: str) -> str:
        shifted = self.node("Add", [value, bias], f"{output}.shifted")
        total = self.node("Add", [shifted, residual], f"{output}.total")
        return self.norm(norm, total, output)

    def constants_by_name(self) -> dict[str, onnx.TensorProto]:
        return {constant.name: constant for constant in self.constants}
