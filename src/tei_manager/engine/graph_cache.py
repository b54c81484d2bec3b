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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from tei_manager.engine.model import ModelUnusable

_log = logging.getLogger(__name__)


def graph_file(directory: Path, architecture: Mapping[str, Any]) -> Path:
    """Return the ONNX file that runs the model in ``directory``: its own, or one built from it.

    Args:
        directory: As `find_model` returned it.
        architecture: Its ``config.json``.

    Raises:
        ModelUnusable: There are neither an ONNX file nor weights, or no graph can be built.
    """
    own = directory / "onnx/model.onnx"
    if own.is_file():
        return own
    weights = directory / "model.safetensors"
    if not weights.is_file():
        raise ModelUnusable(
            f"The model in '{directory}' has neither onnx/model.onnx nor model.safetensors"
        )
    return _cached(architecture, weights, user_cache_path("tei-manager") / "graphs")


def _cached(architecture: Mapping[str, Any], weights: Path, root: Path) -> Path:
    """Return the graph's file below ``root``, built on the first call."""
    place = root / _key(architecture, weights)
    if not (place / "model.onnx").is_file():
        try:
            _build(architecture, weights, place)
        except OSError as error:
            raise ModelUnusable(
                f"Cannot keep the model's graph in '{root}' ({error}); make room there or make it"
                " writable"
            ) from error
    return place / "model.onnx"


def _key(architecture: Mapping[str, Any], weights: Path) -> str:
    """Return the digest of what the graph is made from; 50 ms for 90 MB where SHA is in silicon."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(architecture, sort_keys=True).encode())
    digest.update(Path(__file__).with_name("graph.py").read_bytes())
    return digest.hexdigest()


def _build(architecture: Mapping[str, Any], weights: Path, place: Path) -> None:
    """Write the graph beside its place and move it there; whoever comes second lets it be."""
    from tei_manager.engine.graph import write_graph

    _log.info("Building the graph of %s", weights.parent)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=place.parent))
    try:
        write_graph(architecture, weights, draft)
        _publish(draft, place)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _publish(draft: Path, place: Path) -> None:
    try:
        draft.rename(place)
    except OSError:
        if not (place / "model.onnx").is_file():
            raise
