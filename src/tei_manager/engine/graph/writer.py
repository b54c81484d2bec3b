"""Write the ONNX graph of an encoder from ``config.json`` and safetensors.

A published repository that has no ONNX file has weights and a description; this package joins
them. `families` knows what the tensors are called, `layers` and `heads` what is computed, `nodes`
by which operators.

Interface of the graph
    ``input_ids``, ``attention_mask`` and, where the family has them, ``token_type_ids``: int32,
    (batch, sequence), mask 1 for tokens and 0 for padding. One output, float32:
    ``last_hidden_state``, (batch, sequence, hidden), or with a head ``logits``: (batch, labels) or
    (batch, sequence, vocabulary). Rows are filled on the right; what stands in a padded place
    changes nothing, because ``Attention`` adds -10,000 to its scores and ``exp`` of that is zero in
    float32.

Exactness
    Every family, head and activation is held against a plain NumPy forward pass, and against the
    same graph without fused operators, in ``tests/engine/test_graph.py``.

Known limits
    Absolute positions or MPNet's distances; no decoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper
from safetensors import SafetensorError, safe_open

from tei_manager.engine.graph.families import FAMILIES, Family
from tei_manager.engine.graph.heads import append_classifier, append_masked_lm
from tei_manager.engine.graph.layers import Layers
from tei_manager.engine.graph.nodes import Nodes
from tei_manager.engine.graph.weights import Weights
from tei_manager.engine.kinds import Head
from tei_manager.engine.model import ModelUnusable

# The opsets that the fused operators were written for; old enough for every supported runtime.
_OPSET = 17
_IR_VERSION = 9


def write_graph(
    architecture: Mapping[str, Any],
    head: Head,
    weights: Sequence[Path],
    target: Path,
    kind: type[Nodes] = Nodes,
) -> None:
    """Write ``model.onnx`` and ``weights.bin`` into the directory ``target``.

    Args:
        architecture: The model's ``config.json``.
        head: What stands on top of the encoder.
        weights: Its files of tensors, as `checkpoint.weight_files` finds them.
        target: An existing directory.
        kind: By which operators; tests give a kind without fused ones.

    Raises:
        ModelUnusable: The family or activation is not known here, or a tensor is missing or has
            the wrong shape.
        OSError: ``target`` cannot be written.
    """
    family = _family(architecture)
    try:
        with ExitStack() as stack:
            data = stack.enter_context((target / "weights.bin").open("wb"))
            files = [stack.enter_context(safe_open(path, "np")) for path in weights]
            nodes = kind(Weights(files, family.prefix), _epsilon(architecture), data)
            model = _model(architecture, family, head, nodes)
    except SafetensorError as error:
        raise ModelUnusable(f"Cannot read the weights in '{weights[0]}': {error}") from error
    except (ValueError, IndexError) as error:  # NumPy's: shapes that cannot be joined
        raise ModelUnusable(
            f"The weights in '{weights[0].parent}' do not fit together: {error}"
        ) from error
    onnx.save(model, target / "model.onnx")


def _family(architecture: Mapping[str, Any]) -> Family:
    """Return the family; raise for what would be computed wrong without anybody noticing."""
    name = architecture.get("model_type")
    if name not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelUnusable(
            f"The model is of type '{name}' and has no onnx/model.onnx; without that file"
            f" tei-engine runs models of the types {known}"
        )
    positions = architecture.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ModelUnusable(f"Position embeddings of type '{positions}' are not known")
    if architecture.get("is_decoder"):
        raise ModelUnusable("config.json has `is_decoder`, and tei-engine runs encoders only")
    return FAMILIES[name]


def _epsilon(architecture: Mapping[str, Any]) -> float:
    found = architecture.get("layer_norm_eps", 1e-12)
    if not isinstance(found, float | int) or not 0 <= found < 1:
        raise ModelUnusable(f"config.json lacks a usable 'layer_norm_eps'; it has {found!r}")
    return float(found)


def _model(
    architecture: Mapping[str, Any], family: Family, head: Head, nodes: Nodes
) -> onnx.ModelProto:
    """Return the whole model."""
    layers = Layers(architecture, family, nodes)
    hidden = layers.append("last_hidden_state")
    match head:
        case Head.NONE:
            output = _output(hidden, ["batch", "sequence", layers.hidden])
        case Head.CLASSIFIER:
            output = _output(append_classifier(family, nodes, hidden), ["batch", "labels"])
        case Head.MASKED_LM:
            logits = append_masked_lm(family, nodes, layers, hidden)
            output = _output(logits, ["batch", "sequence", "vocabulary"])
    names = ["input_ids", "attention_mask", *(["token_type_ids"] if family.token_types else [])]
    graph = helper.make_graph(
        nodes.nodes, family.prefix, list(map(_input, names)), [output], nodes.constants
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)


def _input(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "sequence"])


def _output(name: str, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
