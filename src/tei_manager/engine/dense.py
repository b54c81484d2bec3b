"""The Dense modules of sentence-transformers: linear layers behind the pooling.

They are few and small, so they run in NumPy on each pooled vector. ``modules.json`` lists them;
``--dense-path`` puts another folder in the place of the only one, or names one where there is no
list. A ``Normalize`` module is passed over, as in TEI: the request decides. TEI passes every other
kind over, too, and gives vectors that are not the model's; here one that changes them is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from tei_manager.engine.model import ModelUnusable, read_json

Vector = NDArray[np.float32]


def _identity(vector: Vector) -> Vector:
    return vector


# By the last part of the class name; TEI knows the same two.
_ACTIVATIONS: dict[str, Callable[[Vector], Vector]] = {"Identity": _identity, "Tanh": np.tanh}


# What is done elsewhere, or does nothing when a model is used.
_PASSED_OVER = (
    *("Transformer", "MLMTransformer", "Pooling", "SpladePooling"),
    *("Normalize", "Dropout"),
)


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
        modules = [(_last_part(row["type"]), str(row["path"])) for row in read_json(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelUnusable(f"Cannot read modules.json of the model: {error!r}") from error
    if unknown := [kind for kind, _ in modules if kind not in ("Dense", *_PASSED_OVER)]:
        raise ModelUnusable(
            f"modules.json of the model names a module '{unknown[0]}', which tei-engine does not"
            " have; without it the vectors would be others"
        )
    return [path for kind, path in modules if kind == "Dense"]


def _read(folder: Path) -> Dense:
    try:
        description = read_json(folder / "config.json")
        tensors = load_file(folder / "model.safetensors")
        weight = tensors["linear.weight"].astype(np.float32)
        bias = tensors.get("linear.bias", np.zeros(len(weight))).astype(np.float32)
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise ValueError(f"a weight of {weight.shape} and a bias of {bias.shape}")
        return Dense(weight, bias, _activation(description, folder))
    except (OSError, ValueError, TypeError, AttributeError, KeyError, SafetensorError) as error:
        raise ModelUnusable(f"Cannot read the Dense module '{folder}': {error!r}") from error


def _last_part(name: object) -> str:
    """Return a class's own name."""
    return str(name).rpartition(".")[2]


def _activation(description: dict[str, Any], folder: Path) -> Callable[[Vector], Vector]:
    name = _last_part(description.get("activation_function", "Tanh"))
    if name not in _ACTIVATIONS:
        raise ModelUnusable(
            f"The Dense module '{folder}' has the activation '{name}', which is not known"
        )
    return _ACTIVATIONS[name]
