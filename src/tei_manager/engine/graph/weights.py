"""The tensors of a checkpoint by the names that `families` gives them.

Names differ between checkpoints of one family: with or without the family's prefix, and with
``gamma`` and ``beta`` in norms that were converted from TensorFlow. All are float32 here, whatever
kind of float the checkpoint keeps; of anything narrower the scale would be needed, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tei_manager.engine.model import ModelUnusable

Tensor = NDArray[np.float32]

_FLOATS = ("F64", "F32", "F16", "BF16")


class Weights:
    """The tensors of open safetensors files.

    Args:
        files: As `safetensors.safe_open` gives them; open as long as this object is used.
        prefix: What may stand before a name.
    """

    def __init__(self, files: Iterable[Any], prefix: str) -> None:
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118 - no dict
        self._prefix = prefix

    def __call__(self, name: str) -> Tensor:
        """Return a tensor.

        Raises:
            ModelUnusable: The checkpoint has no such tensor, or it is neither vector nor matrix, or
                not of floats.
        """
        found = self._find(name)
        if found is None:
            raise ModelUnusable(f"The weights lack the tensor '{name}'")
        kind = self._files[found].get_slice(found).get_dtype()
        if kind not in _FLOATS:
            raise ModelUnusable(
                f"The tensor '{found}' is of type {kind}; without onnx/model.onnx tei-engine takes"
                f" {', '.join(_FLOATS)}"
            )
        tensor = np.asarray(self._files[found].get_tensor(found), dtype=np.float32)
        if tensor.ndim not in (1, 2):
            raise ModelUnusable(f"The tensor '{found}' has the shape {list(tensor.shape)}")
        return tensor

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def _find(self, name: str) -> str | None:
        return next(
            (spelling for spelling in self._spellings(name) if spelling in self._files), None
        )

    def _spellings(self, name: str) -> Iterator[str]:
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        old = old.replace("LayerNorm.bias", "LayerNorm.beta")
        for spelling in (name, old):
            yield spelling
            yield self._prefix + spelling
