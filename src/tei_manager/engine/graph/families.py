"""What the families of encoders call their parts: one row for each, nothing else differs by name.

A family is a way to name tensors and sizes. What the layers compute is the same in all of them
(`layers`), apart from three things that a row says: whether there are token types, where the
position table begins, and whether the attention has a bias for the distance of two tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The keys of ``config.json`` that hold the sizes of a model."""

    hidden: str = "hidden_size"
    layers: str = "num_hidden_layers"
    heads: str = "num_attention_heads"
    activation: str = "hidden_act"


@dataclass(frozen=True, slots=True, kw_only=True)
class Classifier:
    """A classification head: two linear layers on the first token.

    Args:
        dense: The first layer.
        activation: The ONNX operator behind it.
        out: The second layer, one row for each label.
    """

    dense: str = "classifier.dense"
    activation: str = "Tanh"
    out: str = "classifier.out_proj"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedLm:
    """A masked language model's head: linear, activation, norm, then the vocabulary.

    Args:
        dense: The linear layer.
        norm: The norm behind the activation.
        decoder: The matrix of the vocabulary; the word embeddings where a checkpoint lacks it.
        bias: One number for each entry of the vocabulary.
        activation: Stands behind the linear layer; that of the encoder's layers if ``None``.
    """

    dense: str = "lm_head.dense"
    norm: str = "lm_head.layer_norm"
    decoder: str = "lm_head.decoder"
    bias: str = "lm_head.bias"
    activation: str | None = "gelu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a family names its tensors; names in a layer follow behind ``layer``.

    Args:
        prefix: What stands before an encoder's tensors in checkpoints with a head.
        layer: Name of a layer; ``{}`` is its number.
        token_types: Whether there is an embedding of token types.
        positions_behind_padding: Whether the position table begins behind the padding id.
        relative_bias: The table of the distances' bias, ``None`` where there is none.
    """

    prefix: str
    layer: str = "encoder.layer.{}"
    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_output: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    intermediate: str = "intermediate.dense"
    output: str = "output.dense"
    output_norm: str = "output.LayerNorm"
    token_types: bool = True
    positions_behind_padding: bool = False
    relative_bias: str | None = None
    sizes: Sizes = field(default_factory=Sizes)
    classifier: Classifier = field(default_factory=Classifier)
    masked_lm: MaskedLm = field(default_factory=MaskedLm)


_BERT = Family(
    prefix="bert.",
    classifier=Classifier(dense="pooler.dense", out="classifier"),
    masked_lm=MaskedLm(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        decoder="cls.predictions.decoder",
        bias="cls.predictions.bias",
        activation=None,
    ),
)

_ROBERTA = Family(prefix="roberta.", positions_behind_padding=True)

_DISTILBERT = Family(
    prefix="distilbert.",
    layer="transformer.layer.{}",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    intermediate="ffn.lin1",
    output="ffn.lin2",
    output_norm="output_layer_norm",
    token_types=False,
    sizes=Sizes(hidden="dim", layers="n_layers", heads="n_heads", activation="activation"),
    classifier=Classifier(dense="pre_classifier", activation="Relu", out="classifier"),
    masked_lm=MaskedLm(
        dense="vocab_transform",
        norm="vocab_layer_norm",
        decoder="vocab_projector",
        bias="vocab_projector.bias",
        activation=None,
    ),
)

_MPNET = replace(
    _ROBERTA,
    prefix="mpnet.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    token_types=False,
    relative_bias="encoder.relative_attention_bias.weight",
)

FAMILIES = {
    "bert": _BERT,
    "camembert": _ROBERTA,
    "distilbert": _DISTILBERT,
    "mpnet": _MPNET,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
}
"""The families by the ``model_type`` of ``config.json``."""
