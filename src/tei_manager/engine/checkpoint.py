"""The files that hold a model's weights: one, or shards that an index names."""

from __future__ import annotations

from pathlib import Path

from tei_manager.engine.model import ModelUnusable, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def weight_files(directory: Path) -> tuple[Path, ...]:
    """Return where a model's tensors are, in the order of the files' names; empty if nowhere.

    Args:
        directory: As `model.find_model` returned it.

    Raises:
        ModelUnusable: The index cannot be read, or a shard that it names is missing.
    """
    if (directory / WEIGHTS).is_file():
        return (directory / WEIGHTS,)
    if not (directory / INDEX).is_file():
        return ()
    shards = [directory / name for name in _named(directory / INDEX)]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise ModelUnusable(
            f"The model in '{directory}' lacks {', '.join(missing)}, which {INDEX} names;"
            " download it again"
        )
    return tuple(shards)


def _named(index: Path) -> list[str]:
    """Return the names of the shards; one that leads elsewhere is none."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        if all(name == Path(name).name for name in names):
            return names
        raise ValueError("it names files of other folders")
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelUnusable(f"Cannot read '{index}': {error!r}") from error
