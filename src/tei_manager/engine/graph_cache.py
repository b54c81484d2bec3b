"""Keep built graphs on disk, so that only the first start of a model pays for building.

A graph's directory is named for the SHA-256 of everything it was made from: the weights, the
description, and the code that wrote it. So nothing is ever out of date and nothing has to be
invalidated; a stale directory is merely unused. A graph is written beside its place and renamed
into it, whole or not at all, so that two engines may build the same one at the same time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from tei_manager.engine.checkpoint import weight_files
from tei_manager.engine.kinds import Head
from tei_manager.engine.model import ModelUnusable, graph_names

_log = logging.getLogger(__name__)


def graph_file(directory: Path, architecture: Mapping[str, Any], head: Head, dtype: str) -> Path:
    """Return the ONNX file that runs the model in ``directory``: its own, or one built from it.

    Args:
        directory: As `find_model` returned it.
        architecture: Its ``config.json``.
        head: What a graph that is built has on top of the encoder.
        dtype: ``--dtype``; only float32 can be built.

    Raises:
        ModelUnusable: There is neither an ONNX file for the dtype nor weights, or no graph can be
            built.
    """
    names = graph_names(dtype)
    own = next((directory / name for name in names if (directory / name).is_file()), None)
    if own is not None:
        return own
    if dtype != "float32":
        raise ModelUnusable(
            f"The model in '{directory}' has no {dtype} graph; looked for {', '.join(names)}"
        )
    weights = weight_files(directory)
    if not weights:
        raise ModelUnusable(
            f"The model in '{directory}' has neither onnx/model.onnx nor model.safetensors"
        )
    return _cached(architecture, head, weights, user_cache_path("tei-manager") / "graphs")


def _cached(
    architecture: Mapping[str, Any], head: Head, weights: Sequence[Path], root: Path
) -> Path:
    """Return the graph's file below ``root``, built on the first call."""
    place = root / _key(architecture, head, weights)
    if not (place / "model.onnx").is_file():
        try:
            _build(architecture, head, weights, place)
        except OSError as error:
            raise ModelUnusable(
                f"Cannot keep the model's graph in '{root}' ({error}); make room there or make it"
                " writable"
            ) from error
    return place / "model.onnx"


def _key(architecture: Mapping[str, Any], head: Head, weights: Sequence[Path]) -> str:
    """Return the digest of what the graph is made from; 50 ms for 90 MB where SHA is in silicon."""
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    digest.update(json.dumps([architecture, head.value], sort_keys=True).encode())
    for source in sorted(Path(__file__).with_name("graph").glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _build(
    architecture: Mapping[str, Any], head: Head, weights: Sequence[Path], place: Path
) -> None:
    """Write the graph beside its place and move it there; whoever comes second lets it be."""
    from tei_manager.engine.graph.writer import write_graph

    _log.info("Building the graph of %s", weights[0].parent)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=place.parent))
    try:
        write_graph(architecture, head, weights, draft)
        _publish(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, place: Path) -> None:
    try:
        draft.rename(place)
    except OSError:
        if not (place / "model.onnx").is_file():
            raise
