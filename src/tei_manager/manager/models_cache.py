"""What the files of a model say: in the Hugging Face cache, or in a folder of its own.

Complete means what a server needs: ``config.json``, ``tokenizer.json``, and all of the weights in
one of the formats of `WEIGHTS`. Downloads fetch the weights last, so that a model whose weights are
there has everything else. A file that cannot be read counts as missing.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NEEDED = ("config.json", "tokenizer.json")

WEIGHTS = ("model.safetensors", "onnx/model.onnx", "model.onnx", "pytorch_model.bin")
"""Formats that TEI and the engine load, best first; the first may be split into shards."""

_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "last-token",
}


@dataclass(frozen=True, slots=True)
class Files:
    """What is on the disk of one model.

    Args:
        path: The folder with its files; ``None`` if there is none.
        size_bytes: Of all that is kept of it, partial files counted, each file once.
        missing: Files that a server would need; empty for a complete model.
        kind: ``embedding``, ``classifier`` or ``reranker``; empty if ``config.json`` does not say.
        model_type: As in ``config.json``; empty if it does not say.
        pooling: ``cls``, ``mean`` or ``last-token``; ``None`` if no file says.
    """

    path: Path | None = None
    size_bytes: int = 0
    missing: tuple[str, ...] = NEEDED
    kind: str = ""
    model_type: str = ""
    pooling: str | None = None


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Return where the Hugging Face libraries and TEI keep downloads, by their own variables."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return Path(environ[name]).expanduser()
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(environ.get("HF_HOME") or f"{caches}/huggingface").expanduser() / "hub"


def repository(cache: Path, model_id: str) -> Path:
    """Return the folder of a model in the cache, whether it is there or not."""
    return cache / f"models--{model_id.replace('/', '--')}"


def cached_ids(cache: Path) -> list[str]:
    """Return the ids of all models that the cache has anything of."""
    folders = cache.glob("models--*") if cache.is_dir() else ()
    names = (each.name.removeprefix("models--") for each in folders if each.is_dir())
    return sorted(name.replace("--", "/", 1) for name in names)


def examine(cache: Path, model_id: str) -> Files:
    """Return what is there of a model.

    Args:
        cache: From `cache_folder`.
        model_id: Of the hub, or the absolute path of a folder.
    """
    if Path(model_id).is_absolute():
        folder = Path(model_id)
        return _described(folder, folder) if folder.is_dir() else Files()
    kept = repository(cache, model_id)
    snapshot = _snapshot(kept)
    return _described(snapshot, kept) if snapshot else Files(size_bytes=_size(kept))


def remove(cache: Path, model_id: str) -> None:
    """Remove everything that the cache has of a model."""
    kept = repository(cache, model_id)
    if kept.is_dir():
        shutil.rmtree(kept)


def _snapshot(kept: Path) -> Path | None:
    """Return the snapshot of the main branch, or else the one that was made last."""
    try:
        main = kept / "snapshots" / (kept / "refs" / "main").read_text("ascii").strip()
        if main.is_dir():
            return main
    except (OSError, UnicodeDecodeError):
        pass
    found = [each for each in kept.glob("snapshots/*") if each.is_dir()]
    return max(found, key=lambda each: each.stat().st_mtime, default=None)


def _described(folder: Path, kept: Path) -> Files:
    config = _read(folder / "config.json")
    modes = _read(folder / "1_Pooling" / "config.json")
    return Files(
        path=folder,
        size_bytes=_size(kept),
        missing=_missing(folder),
        kind=_kind(config),
        model_type=str(config.get("model_type") or ""),
        pooling=next((name for key, name in _POOLING.items() if modes.get(key)), None),
    )


def _kind(config: Mapping[str, Any]) -> str:
    """Return what the model is for, by TEI's rule: the last word of its architecture."""
    names = config.get("architectures")
    if not isinstance(names, list) or not names:
        return ""
    if not any(str(name).endswith("Classification") for name in names):
        return "embedding"
    labels = config.get("id2label")
    return "reranker" if isinstance(labels, dict) and len(labels) == 1 else "classifier"


def _missing(folder: Path) -> tuple[str, ...]:
    missing = [name for name in NEEDED if not (folder / name).is_file()]
    shards = _read(folder / f"{WEIGHTS[0]}.index.json").get("weight_map")
    if isinstance(shards, dict) and not (folder / WEIGHTS[0]).is_file():
        return (*missing, *(n for n in sorted(set(shards.values())) if not (folder / n).is_file()))
    whole = any((folder / name).is_file() for name in WEIGHTS)
    return tuple(missing) if whole else (*missing, WEIGHTS[0])


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _size(folder: Path) -> int:
    """Return the octets of all files below a folder; links count nothing, their targets do."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            file = Path(place, name)
            try:
                total += 0 if file.is_symlink() else file.stat().st_size
            except OSError:  # a download has moved it meanwhile
                continue
    return total
