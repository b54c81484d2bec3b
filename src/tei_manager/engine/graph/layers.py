"""The encoder itself: embeddings and layers, the same for every family.

Positions
    RoBERTa and MPNet count positions from behind the padding id. The table is cut there once, so
    that position 0 is its first row in every family; TEI counts the same way, whatever ids stand
    in the text.

Distances (MPNet)
    Every layer adds to its scores one number for each head and each distance of two tokens. There
    are 32 learnt numbers a head: distances up to 8 have one each, longer ones share them, in steps
    that grow with the logarithm up to 128. The number for each distance that the model can see is
    written into the graph as a table; a run picks its square out of it once, for all layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tei_manager.engine.graph.families import Family
from tei_manager.engine.graph.nodes import ACTIVATIONS, Nodes
from tei_manager.engine.graph.weights import Tensor
from tei_manager.engine.model import ModelUnusable

# MPNet's `relative_position_bucket`: beyond this distance all are alike.
_FARTHEST = 128

# Fewer leave none for distances of their own, on each side.
_FEWEST_BUCKETS = 4

_POSITIONS = "embeddings.position_embeddings.weight"


class Layers:
    """Appends an encoder to a graph.

    Args:
        architecture: The model's ``config.json``.
        family: Names its parts.
        nodes: The graph under construction.

    Raises:
        ModelUnusable: A size is missing or is not that of the weights.
    """

    def __init__(self, architecture: Mapping[str, Any], family: Family, nodes: Nodes) -> None:
        self._architecture = architecture
        self._family = family
        self._nodes = nodes
        sizes = family.sizes
        self.hidden = _size(architecture, sizes.hidden)
        self._layers = _size(architecture, sizes.layers)
        self._heads = _size(architecture, sizes.heads)
        self.activation = str(architecture.get(sizes.activation, "gelu"))
        if self.activation not in ACTIVATIONS:
            raise ModelUnusable(f"The activation '{self.activation}' is not known")

    def append(self, output: str) -> str:
        """Append everything; ``output`` are the last hidden states."""
        hidden = self._embeddings("hidden.0")
        bias = self._distance_bias()
        for index in range(self._layers):
            last = index == self._layers - 1
            hidden = self._layer(index, hidden, bias, output if last else f"hidden.{index + 1}")
        return hidden

    def _embeddings(self, output: str) -> str:
        words = "embeddings.word_embeddings.weight"
        width = self._nodes.weights(words).shape[-1]
        if width != self.hidden or width % self._heads:
            raise ModelUnusable(
                f"config.json says {self.hidden} hidden units and {self._heads} heads, which does"
                f" not fit weights that are {width} wide"
            )
        self._nodes.add(_POSITIONS, self._nodes.weights(_POSITIONS)[self._first_position() :])
        tables = [self._nodes.constant(words), _POSITIONS]
        if self._family.token_types:
            tables.append(self._nodes.constant("embeddings.token_type_embeddings.weight"))
        return self._nodes.embed(tables, "embeddings.LayerNorm", output)

    def _first_position(self) -> int:
        if not self._family.positions_behind_padding:
            return 0
        padding = self._architecture.get("pad_token_id")
        return (padding if isinstance(padding, int) else 1) + 1

    def _layer(self, index: int, hidden: str, bias: str, output: str) -> str:
        """Append one layer: attention, then the feed-forward half, each with skip and norm."""
        family, nodes, prefix = self._family, self._nodes, self._family.layer.format(index)
        attended = self._attention(prefix, hidden, bias)
        middle = self._project(
            f"{prefix}.{family.attention_output}",
            attended,
            hidden,
            f"{prefix}.{family.attention_norm}",
            f"{prefix}.middle",
        )
        wide = f"{prefix}.{family.intermediate}"
        expanded = nodes.product(wide, middle)
        activated = nodes.activate(
            self.activation, expanded, nodes.constant(f"{wide}.bias"), f"{prefix}.activated"
        )
        return self._project(
            f"{prefix}.{family.output}", activated, middle, f"{prefix}.{family.output_norm}", output
        )

    def _attention(self, prefix: str, hidden: str, bias: str) -> str:
        """Append self-attention; query, key and value are one product, side by side."""
        family, nodes = self._family, self._nodes
        parts = [f"{prefix}.{name}" for name in (family.query, family.key, family.value)]
        weight = np.concatenate([nodes.weights(f"{part}.weight").T for part in parts], axis=1)
        shift = np.concatenate([nodes.weights(f"{part}.bias") for part in parts])
        packed = [
            nodes.add(f"{prefix}.attention.weight", weight),
            nodes.add(f"{prefix}.attention.bias", shift),
        ]
        return nodes.attention(hidden, packed, self._heads, bias, f"{prefix}.attended")

    def _project(self, name: str, value: str, residual: str, norm: str, output: str) -> str:
        """Append the product, bias, skip and norm that end each half of a layer."""
        product = self._nodes.product(name, value)
        bias = self._nodes.constant(f"{name}.bias")
        return self._nodes.skip_norm(product, residual, norm, bias, output)

    def _distance_bias(self) -> str:
        """Append (1, heads, sequence, sequence) numbers for the distances; nothing if empty."""
        if self._family.relative_bias is None:
            return ""
        nodes = self._nodes
        learnt = nodes.weights(self._family.relative_bias)
        if len(learnt) < _FEWEST_BUCKETS:
            raise ModelUnusable(f"'{self._family.relative_bias}' has {len(learnt)} rows only")
        longest = len(nodes.weights(_POSITIONS))
        table = nodes.add("distance.table", _by_distance(learnt, longest))
        return _square(nodes, table, longest)


def _size(architecture: Mapping[str, Any], key: str) -> int:
    value = architecture.get(key)
    if not isinstance(value, int) or value < 1:
        raise ModelUnusable(f"config.json must have a positive integer `{key}`")
    return value


def _square(nodes: Nodes, table: str, longest: int) -> str:
    """Append the choice of a row of ``table`` for each pair of positions of this run."""
    integer = {
        name: nodes.add(f"distance.{name}", np.array(value, dtype=np.int64))
        for name, value in (
            ("zero", 0),
            ("one", 1),
            ("centre", longest - 1),
            ("rows", [0]),
            ("columns", [1]),
        )
    }
    shape = nodes.node("Shape", ["input_ids"], "distance.shape")
    length = nodes.node("Gather", [shape, integer["one"]], "distance.length")
    steps = [integer["zero"], length, integer["one"]]
    positions = nodes.node("Range", steps, "distance.positions")
    across = nodes.node("Unsqueeze", [positions, integer["rows"]], "distance.across")
    down = nodes.node("Unsqueeze", [positions, integer["columns"]], "distance.down")
    distance = nodes.node("Sub", [across, down], "distance.distance")
    index = nodes.node("Add", [distance, integer["centre"]], "distance.index")
    chosen = nodes.node("Gather", [table, index], "distance.chosen", axis=1)
    return nodes.node("Unsqueeze", [chosen, integer["rows"]], "distance.bias")


def _by_distance(learnt: Tensor, longest: int) -> Tensor:
    """Return (heads, 2 x longest - 1): the bias for each distance, the most negative first.

    Args:
        learnt: (buckets, heads).
        longest: Most positions.
    """
    distances = np.arange(1 - longest, longest)
    table: Tensor = learnt[_bucket(distances, len(learnt))].T
    return table


def _bucket(distances: NDArray[np.int64], buckets: int) -> NDArray[np.int64]:
    """Return which learnt number belongs to each distance, the second half being for later tokens.

    In float32, as the models were trained: a logarithm rounded otherwise would shift a border.
    """
    half = buckets // 2
    exact = half // 2
    away = np.abs(distances)
    ratio = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact))
    steps = ratio / np.float32(math.log(_FARTHEST / exact)) * np.float32(half - exact)
    far = np.minimum(exact + steps.astype(np.int64), half - 1)
    chosen: NDArray[np.int64] = np.where(away < exact, away, far) + half * (distances > 0)
    return chosen
