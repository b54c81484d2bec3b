"""From the vectors of a text's tokens to the vector of the text, and to the one that is sent.

Everything here works on one text without its padding, so a batch cannot change an answer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tei_manager.engine.config import Pooling
from tei_manager.engine.refusals import backend_failed, invalid

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]


def pool(hidden: Matrix, pooling: Pooling) -> Vector:
    """Return the text's vector, of its own memory.

    Args:
        hidden: One row for each token, special tokens included, padding left out.
        pooling: Any but SPLADE, which pools vocabulary scores and not hidden states.
    """
    match pooling:
        case Pooling.CLS:
            return np.array(hidden[0])
        case Pooling.LAST_TOKEN:
            return np.array(hidden[-1])
        case Pooling.MEAN:
            mean: Vector = hidden.mean(axis=0)
            return mean
        case Pooling.SPLADE:
            raise ValueError("SPLADE does not pool hidden states")


def finish(vector: Vector, dimensions: int | None, *, normalize: bool) -> Vector:
    """Return the vector that is sent: first cut, then brought to unit length.

    The length is summed in float64 and applied in float32, as in TEI.

    Args:
        vector: As `pool` returned it.
        dimensions: How many leading numbers are wanted; all if ``None``.
        normalize: Whether to scale to unit length.

    Raises:
        StatusError: INVALID_ARGUMENT, more dimensions are wanted than there are.
            FAILED_PRECONDITION, the result is not finite: the weights are broken, or the vector
            is zero and has no direction. TEI sends NaN there.
    """
    if dimensions is not None:
        if dimensions > vector.size:
            raise invalid("`dimensions` should be smaller than the maximum embedding dimension.")
        vector = vector[:dimensions]
    finite(vector)
    return _unit(vector) if normalize else vector


def finite(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``values`` if all are finite, and raise FAILED_PRECONDITION if not."""
    if not np.isfinite(values).all():
        raise backend_failed("the embedding is not finite")
    return values


def _unit(vector: Vector) -> Vector:
    """Return the vector at unit length; what is too short for that has no direction."""
    wide = vector.astype(np.float64)
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        scale = np.float32(1.0 / np.sqrt(np.dot(wide, wide)))
        scaled: Vector = vector * scale
    return finite(scaled)
