"""What stands on top of an encoder: nothing, a classifier, or a masked language model."""

from __future__ import annotations

import numpy as np

from tei_manager.engine.graph.families import Family
from tei_manager.engine.graph.layers import Layers
from tei_manager.engine.graph.nodes import Nodes


def append_classifier(family: Family, nodes: Nodes, hidden: str) -> str:
    """Append the logits of a sequence classifier, (batch, labels), from the first token."""
    head = family.classifier
    index = nodes.add("classifier.index", np.array(0, dtype=np.int64))
    first = nodes.node("Gather", [hidden, index], "classifier.first", axis=1)
    pooled = nodes.linear(head.dense, first, "classifier.pooled")
    activated = nodes.node(head.activation, [pooled], "classifier.activated")
    return nodes.linear(head.out, activated, "logits")


def append_masked_lm(family: Family, nodes: Nodes, layers: Layers, hidden: str) -> str:
    """Append the logits of a masked language model, (batch, sequence, vocabulary)."""
    head = family.masked_lm
    product = nodes.product(head.dense, hidden)
    bias = nodes.constant(f"{head.dense}.bias")
    activation = head.activation or layers.activation
    activated = nodes.activate(activation, product, bias, "masked_lm.activated")
    normal = nodes.norm(head.norm, activated, "masked_lm.normal")
    decoder = f"{head.decoder}.weight"
    if decoder not in nodes.weights:  # tied: the embeddings, read the other way
        decoder = "embeddings.word_embeddings.weight"
    matrix = nodes.add("masked_lm.decoder", nodes.weights(decoder).T)
    scores = nodes.node("MatMul", [normal, matrix], "masked_lm.scores")
    return nodes.node("Add", [scores, nodes.constant(head.bias)], "logits")
