from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tei_manager.engine.scores import descending, scores_of
from tei_manager.grpc.status import Code, StatusError


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


LOGITS = st.lists(st.floats(-80, 80, width=32), min_size=2, max_size=9)


@given(LOGITS)
def test_shares_of_several_labels_are_the_softmax(logits: list[float]) -> None:
    shares = scores_of(f32(logits), raw=False)
    powers = [math.exp(logit - max(logits)) for logit in logits]
    np.testing.assert_allclose(shares, [power / sum(powers) for power in powers], atol=1e-6)


@given(st.floats(-1e4, 1e4, width=32))
def test_the_score_of_one_label_is_the_sigmoid(logit: float) -> None:
    (score,) = scores_of(f32([logit]), raw=False)
    assert score == pytest.approx(1 / (1 + math.exp(-max(logit, -700))), abs=1e-6)


def test_extremes_that_are_nan_in_the_router_have_a_score() -> None:
    assert scores_of(f32([-60, 40]), raw=False).tolist() == pytest.approx([0, 1])


def test_raw_scores_are_the_logits() -> None:
    assert scores_of(f32([-60, 40]), raw=True).tolist() == [-60, 40]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("logits", [[math.nan], [1, math.nan]])
def test_nan_is_a_status_and_no_score(logits: list[float], raw: bool) -> None:
    with pytest.raises(StatusError) as refusal:
        scores_of(f32(logits), raw=raw)
    assert (refusal.value.code, refusal.value.message) == (Code.FAILED_PRECONDITION, "score is NaN")


def test_infinite_logits_of_several_labels_have_no_shares() -> None:
    with pytest.raises(StatusError, match="score is NaN"):
        scores_of(f32([math.inf, 1]), raw=False)


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), max_size=12))
def test_equal_scores_come_in_descending_order_of_their_index(scores: list[float]) -> None:
    order = descending(f32(scores))
    assert order == sorted(range(len(scores)), key=lambda index: (scores[index], index))[::-1]
