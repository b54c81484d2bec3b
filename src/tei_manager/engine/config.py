"""What the JSON files of a model say about it, read as TEI reads them.

The rules are those of text-embeddings-router: the kind of a model follows from the last word of
its architecture, its pooling from ``1_Pooling/config.json``, its length from the first of several
files that has one. A file that is there but does not say what it must is an error that names the
file; a guess would give wrong vectors that nobody notices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tei_manager.engine.kinds import Head, Kind, Pooling, kind_of, labels_of
from tei_manager.engine.model import ModelUnusable, read_json

# sentence-transformers names the file after the model class that wrote it; all say the same.
_LENGTH_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)

# Position tables of these models start behind the padding index. TEI leaves MPNet out, and would
# read behind the end of its table.
_OFFSET_MODELS = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})

# Their padding id where config.json leaves it out, as it then does in `transformers`.
_OFFSET_PAD_ID = 1


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model as its files describe it.

    Args:
        architecture: ``config.json`` as it stands; `graph` reads sizes from it.
        kind: What the model is for.
        pooling: How a text's vector is made; ``None`` for classifiers and rerankers.
        labels: A classifier's, in the order of its logits; none for embedding models.
        max_positions: Most tokens that the model takes, special tokens counted.
        pad_id: The id that fills short rows of a batch; masked, so it changes no result.
        prompts: Texts that can be put before an input, by name.
        pads_left: Whether the tokenizer's description wants short rows filled in front.
    """

    architecture: Mapping[str, Any]
    kind: Kind
    pooling: Pooling | None
    labels: tuple[str, ...]
    max_positions: int
    pad_id: int
    prompts: Mapping[str, str]
    pads_left: bool

    @property
    def head(self) -> Head:
        """What a graph of the model has on top of its encoder."""
        if self.kind is not Kind.EMBEDDING:
            return Head.CLASSIFIER
        return Head.MASKED_LM if self.pooling is Pooling.SPLADE else Head.NONE


def read_config(directory: Path, pooling: Pooling | None = None) -> ModelConfig:
    """Read the description of the model in ``directory``.

    Args:
        directory: As `find_model` returned it.
        pooling: What the user asked for, before anything that the files say; without a meaning for
            classifiers.

    Raises:
        ModelUnusable: A file is missing or broken, or does not say what it must.
    """
    architecture = _read(directory, "config.json")
    kind = kind_of(architecture, pooling)
    embeds = kind is Kind.EMBEDDING
    return ModelConfig(
        architecture=architecture,
        kind=kind,
        pooling=pooling or _pooling(directory, architecture) if embeds else None,
        labels=() if embeds else labels_of(architecture),
        max_positions=_max_positions(directory, architecture),
        pad_id=_pad_id(architecture),
        prompts=_prompts(directory),
        pads_left=_read_optional(directory, "tokenizer_config.json").get("padding_side") == "left",
    )


def _prompts(directory: Path) -> dict[str, str]:
    name = "config_sentence_transformers.json"
    prompts = _read_optional(directory, name).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelUnusable(f"`prompts` in {name} must be texts by name")
    return prompts


def _read(directory: Path, name: str) -> dict[str, Any]:
    """Return the object in a JSON file that must be there."""
    try:
        content = read_json(directory / name)
    except FileNotFoundError:
        raise ModelUnusable(f"The model in '{directory}' has no {name}") from None
    except (OSError, ValueError) as error:
        raise ModelUnusable(f"Cannot read {name} of the model in '{directory}': {error}") from error
    if not isinstance(content, dict):
        raise ModelUnusable(f"{name} of the model in '{directory}' is not a JSON object")
    return content


def _read_optional(directory: Path, name: str) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one if there is no such file."""
    return _read(directory, name) if (directory / name).is_file() else {}


def _pooling(directory: Path, architecture: Mapping[str, Any]) -> Pooling:
    """Return the pooling of the files: cls before mean before last token, as TEI prefers them."""
    if not (directory / "1_Pooling/config.json").is_file():
        if "bert" in str(architecture["model_type"]).lower():
            return Pooling.CLS
        raise ModelUnusable("The model has no 1_Pooling/config.json; choose with --pooling")
    modes = _read(directory, "1_Pooling/config.json")
    for key, pooling in (
        ("pooling_mode_cls_token", Pooling.CLS),
        ("pooling_mode_mean_tokens", Pooling.MEAN),
        ("pooling_mode_lasttoken", Pooling.LAST_TOKEN),
    ):
        if modes.get(key):
            return pooling
    raise ModelUnusable("1_Pooling/config.json asks for none of cls, mean and last token pooling")


def _max_positions(directory: Path, architecture: Mapping[str, Any]) -> int:
    """Return the length that sentence-transformers set, else the size of the position table."""
    for name in _LENGTH_FILES:
        if (directory / name).is_file():
            return _positive(_read(directory, name).get("max_seq_length"), "max_seq_length", name)
    size = architecture.get("max_position_embeddings", architecture.get("max_trained_positions"))
    offset = 0
    if architecture["model_type"] in _OFFSET_MODELS:
        offset = _pad_id(architecture) + 1
    return _positive(size, "max_position_embeddings", "config.json") - offset


def _positive(value: object, key: str, name: str) -> int:
    if not isinstance(value, int) or value < 1:
        raise ModelUnusable(f"{name} must have a positive integer `{key}`")
    return value


def _pad_id(architecture: Mapping[str, Any]) -> int:
    """Return the padding id, by TEI's rule: pad_token_id, else eos_token_id, else 0.

    Where positions begin behind it, no other id can stand in for it.
    """
    if architecture["model_type"] in _OFFSET_MODELS:
        found = architecture.get("pad_token_id")
        return found if isinstance(found, int) else _OFFSET_PAD_ID
    for key in ("pad_token_id", "eos_token_id"):
        if isinstance(architecture.get(key), int):
            return int(architecture[key])
    return 0
