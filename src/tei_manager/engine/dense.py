"""The Dense modules of sentence-transformers: linear layers behind the pooling.

They are few and small, so they run in NumPy on each pooled vector. ``modules.json`` lists them;
``--dense-path`` puts another folder in the place of the only one, or names one where there is no
list. A ``Normalize`` module is passed over, as in TEI: the request decides.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tei_manager.engine.model import ModelUnusable

Vector = NDArray[np.float32]


def _identity(vector: Vector) -> Vector:
    return vector


# By the last part of the class name; TEI knows the same two.
_ACTIVATIONS: dict[str, Callable[[Vector], Vector]] = {"Identity": _identity, "Tanh": np.tanh}


@dataclass(frozen=True, slots=True)
class Dense:
    """One layer: ``activation(weight @ vector + bias)``.

    Args:
        weight: (out, in).
        bias: (out), or zero.
        activation: Keeps the shape.
    """

    weight: Vector
    bias: Vector
    activation: Callable[[Vector], Vector]

    def __call__(self, vector: Vector) -> Vector:
        """Return what the layer makes of a pooled vector."""
        return self.activation(self.weight @ vector + self.bias)


def read_dense(directory: Path, path: str | None) -> tuple[Dense, ...]:
    """Read the Dense modules of a model, in the order in which they run.

    Args:
        directory: The model's.
        path: ``--dense-path``, a folder in it.

    Raises:
        ModelUnusable: A module is broken, or of a kind that is not known.
    """
    folders = _listed(directory)
    if path is not None:
        if len(folders) > 1:
            raise ModelUnusable(f"--dense-path replaces one Dense module; the model has {folders}")
        folders = [path]
    return tuple(_read(directory / folder) for folder in folders)


def _listed(directory: Path) -> list[str]:
    """Return the folders of the Dense modules that ``modules.json`` names."""
    file = directory / "modules.json"
    if not file.is_file():
        return []
    try:
        modules = json.loads(file.read_text("utf-8"))
        return [str(row["path"]) for row in modules if str(row["type"]).endswith(".Dense")]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelUnusable(f"Cannot read modules.json of the model: {error!r}") from error


def _read(folder: Path) -> Dense:
    try:
        description = json.loads((folder / "config.json").read_text("utf-8"))
        tensors = load_file(folder / "model.safetensors")
        weight = tensors["linear.weight"].astype(np.float32)
        bias = tensors.get("linear.bias", np.zeros(len(weight))).astype(np.float32)
        return Dense(weight, bias, _activation(description, folder))
    except (OSError, ValueError, AttributeError, KeyError, SafetensorError) as error:
        raise ModelUnusable(f"Cannot read the Dense module '{folder}': {error!r}") from error


def _activation(description: dict[str, Any], folder: Path) -> Callable[[Vector], Vector]:
    name = str(description.get("activation_function", "Tanh")).rpartition(".")[2]
    if name not in _ACTIVATIONS:
        raise ModelUnusable(
            f"The Dense module '{folder}' has the activation '{name}', which is not known"
        )
    return _ACTIVATIONS[name]
