"""From a classifier's logits to the scores that are sent, and their order."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tei_manager.engine.encoder import Output
from tei_manager.engine.refusals import nan_score

Scores = NDArray[np.float32]


def logits_of(output: Output) -> Scores:
    """Return a text's logits, of their own memory."""
    if output.text is None:
        raise ValueError("the graph of a classifier gives one row of logits for each text")
    return np.array(output.text)


def scores_of(logits: Scores, *, raw: bool) -> Scores:
    """Return the score of each label.

    Args:
        logits: One for each label.
        raw: Send the logits themselves. Otherwise one label has a sigmoid, more have a softmax. The
            softmax is shifted by the largest logit; TEI's, by the one farthest from zero, gives NaN
            where that one is very negative.

    Raises:
        StatusError: FAILED_PRECONDITION, a score is NaN.
    """
    if np.isnan(logits).any():
        raise nan_score()
    if raw:
        return logits
    return _sigmoid(logits) if logits.size == 1 else _softmax(logits)


def _sigmoid(logits: Scores) -> Scores:
    with np.errstate(over="ignore"):
        result: Scores = np.float32(1) / (np.float32(1) + np.exp(-logits))
    return result


def _softmax(logits: Scores) -> Scores:
    with np.errstate(invalid="ignore"):
        powers = np.exp(logits - logits.max())
    shares: Scores = powers / powers.sum()
    if np.isnan(shares).any():
        raise nan_score()
    return shares


def descending(scores: Scores) -> list[int]:
    """Return the indices of scores, highest first; of equals the later one is first, as in TEI."""
    order: list[int] = np.argsort(scores, kind="stable")[::-1].tolist()
    return order
