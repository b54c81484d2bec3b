"""From the vectors of a text's tokens to the vector of the text, and to the one that is sent.

Everything here works on one text without its padding, so a batch cannot change an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tei_manager.engine.dense import Dense
from tei_manager.engine.encoder import Output
from tei_manager.engine.kinds import Pooling
from tei_manager.engine.refusals import backend_failed, invalid

Vector = NDArray[np.float32]
Matrix = NDArray[np.float32]


class TextVectors:
    """Makes the vector of a text.

    Args:
        pooling: How the vectors of its tokens become one.
        dense: Layers behind the pooling, in order.
    """

    def __init__(self, pooling: Pooling, dense: Sequence[Dense] = ()) -> None:
        self._pooling = pooling
        self._dense = dense

    def __call__(self, output: Output) -> Vector:
        """Return the vector, of its own memory; one that the graph made is taken as it is."""
        if output.text is not None:
            return np.array(output.text)
        vector = pool(token_rows(output), self._pooling)
        for layer in self._dense:
            vector = layer(vector)
        return vector


def token_rows(output: Output) -> Matrix:
    """Return one row for each token.

    Raises:
        StatusError: FAILED_PRECONDITION, the model's graph gives vectors of texts only.
    """
    if output.tokens is None:
        raise backend_failed("the model's graph has no output for single tokens")
    return output.tokens


def pool(rows: Matrix, pooling: Pooling) -> Vector:
    """Return the text's vector, of its own memory.

    Args:
        rows: One for each token, special tokens included, padding left out: hidden states, or for
            SPLADE the logits of the vocabulary.
        pooling: Which rows count, and how.
    """
    match pooling:
        case Pooling.CLS:
            return np.array(rows[0])
        case Pooling.LAST_TOKEN:
            return np.array(rows[-1])
        case Pooling.MEAN:
            mean: Vector = rows.mean(axis=0)
            return mean
        case Pooling.SPLADE:
            # Both functions only grow, so the largest logit gives the largest weight.
            weights: Vector = np.log1p(np.maximum(rows.max(axis=0), 0))
            return weights


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
