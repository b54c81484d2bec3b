"""What a model is for, decided as TEI decides it: from the names of its architectures.

An architecture that ends in ``Classification`` is a classifier, or a reranker if it has one label.
``--pooling splade`` with one that ends in ``MaskedLM`` gives sparse embeddings. All else embeds.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from tei_manager.engine.model import ModelUnusable


class Pooling(Enum):
    """How the vectors of the tokens become the vector of the text; values as in ``--pooling``."""

    CLS = "cls"
    MEAN = "mean"
    LAST_TOKEN = "last-token"  # noqa: S105 -- a pooling, not a password
    SPLADE = "splade"


class Kind(Enum):
    """What a model answers; names as in TEI's ``ModelType``."""

    EMBEDDING = "embedding"
    CLASSIFIER = "classifier"
    RERANKER = "reranker"


class Head(Enum):
    """What stands on top of an encoder; values as `transformers` calls such a model."""

    NONE = "none"
    CLASSIFIER = "sequence classification"
    MASKED_LM = "masked language model"


def kind_of(architecture: Mapping[str, Any], pooling: Pooling | None) -> Kind:
    """Return what the model is for.

    Args:
        architecture: Its ``config.json``.
        pooling: What the user asked for.

    Raises:
        ModelUnusable: The description does not say, or sparse embeddings are wanted of a model that
            cannot give them.
    """
    names = architecture.get("architectures")
    family = architecture.get("model_type")
    if not names or not isinstance(names, list) or not family or not isinstance(family, str):
        raise ModelUnusable("config.json must have `architectures` and `model_type`")
    for name in filter(lambda name: not _skipped(name, architecture), map(str, names)):
        if pooling is Pooling.SPLADE and name.endswith("MaskedLM"):
            return Kind.EMBEDDING
        if name.endswith("Classification"):
            return Kind.RERANKER if len(labels_of(architecture)) == 1 else Kind.CLASSIFIER
    if pooling is Pooling.SPLADE:
        raise ModelUnusable(
            f"--pooling splade needs a masked language model (…ForMaskedLM), and this is {names[0]}"
        )
    return Kind.EMBEDDING


def _skipped(name: str, architecture: Mapping[str, Any]) -> bool:
    """Say whether a name means nothing: some embedding models wear this one, without labels."""
    return name == "NewForTokenClassification" and not architecture.get("id2label")


def labels_of(architecture: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the labels of a classifier in the order of its logits.

    Raises:
        ModelUnusable: There are none, or the numbers have gaps.
    """
    labels = architecture.get("id2label")
    if not isinstance(labels, dict) or not labels or not architecture.get("label2id"):
        raise ModelUnusable("config.json of a classifier must have `id2label` and `label2id`")
    try:
        return tuple(str(labels[str(index)]) for index in range(len(labels)))
    except KeyError as error:
        raise ModelUnusable(f"`id2label` in config.json has no label {error}") from None
