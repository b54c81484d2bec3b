"""From flags to a model that is loaded, warmed and ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tei_manager.engine.config import ModelConfig, read_config
from tei_manager.engine.dense import Dense, read_dense
from tei_manager.engine.encoder import Encoder, Output
from tei_manager.engine.flags import Flags
from tei_manager.engine.graph_cache import graph_file
from tei_manager.engine.kinds import Pooling
from tei_manager.engine.model import ModelUnusable, find_model
from tei_manager.engine.pooling import TextVectors
from tei_manager.engine.tokenizer import TokenIds, Tokenizer


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can run.

    Args:
        config: What its files say.
        tokenizer: Knows the effective length.
        encoder: Has run the longest input once.
        dense: Layers behind the pooling, in order.
        default_prompt: Goes before inputs that name no prompt; may be empty.
    """

    config: ModelConfig
    tokenizer: Tokenizer
    encoder: Encoder
    dense: tuple[Dense, ...]
    default_prompt: str


def load(flags: Flags) -> LoadedModel:
    """Find, read, load and warm the model.

    Raises:
        ModelUnusable: It cannot be served; the sentence says why.
    """
    directory = find_model(
        flags.model_id,
        revision=flags.revision,
        cache=flags.cache,
        token=flags.hf_token,
        dtype=flags.dtype,
    )
    config = read_config(directory, Pooling(flags.pooling) if flags.pooling else None)
    prompt = _default_prompt(config, flags)
    tokenizer = _tokenizer(directory, config, flags)
    dense = read_dense(directory, flags.dense_path)
    path = graph_file(directory, config.architecture, config.head, flags.dtype)
    threads = flags.intra_op_threads
    encoder = Encoder(path, config.head, config.pad_id, threads, config.pads_left)
    model = LoadedModel(config, tokenizer, encoder, dense, prompt)
    _warm(model)
    return model


def _default_prompt(config: ModelConfig, flags: Flags) -> str:
    name = flags.default_prompt_name
    if name is None:
        return flags.default_prompt or ""
    if name not in config.prompts:
        known = ", ".join(config.prompts) or "none"
        raise ModelUnusable(f"The model has no prompt '{name}'; it has: {known}")
    return config.prompts[name]


def _tokenizer(directory: Path, config: ModelConfig, flags: Flags) -> Tokenizer:
    """Return the tokenizer, bounded by the model and by the token budget of a batch."""
    if config.max_positions > flags.max_batch_tokens and not flags.auto_truncate:
        raise ModelUnusable(
            f"The model takes {config.max_positions} tokens and --max-batch-tokens is"
            f" {flags.max_batch_tokens}; raise it or set --auto-truncate true"
        )
    length = min(config.max_positions, flags.max_batch_tokens)
    return Tokenizer(directory / "tokenizer.json", length)


def _warm(model: LoadedModel) -> None:
    """Run the shortest and the longest input, so that no caller pays for first-time work.

    What comes out is brought to an answer too: a head or a Dense module of the wrong size is found
    here.
    """
    for count in (1, model.tokenizer.max_length):
        try:
            (output,) = model.encoder.run([TokenIds([model.config.pad_id] * count, [0] * count)])
            _answer(model, output)
        except Exception as error:  # the runtime's own classes share no base of their own
            reason = str(error).partition("\n")[0]
            raise ModelUnusable(f"The model cannot run {count} tokens: {reason}") from error


def _answer(model: LoadedModel, output: Output) -> None:
    """Make of an output what a caller would get."""
    labels = len(model.config.labels)
    if model.config.pooling is not None:
        TextVectors(model.config.pooling, model.dense)(output)
    elif output.text is None or len(output.text) != labels:
        raise ValueError(f"its graph does not give one number for each of {labels} labels")
