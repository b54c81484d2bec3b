from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tei_manager.engine.dense import Dense
from tei_manager.engine.encoder import Output
from tei_manager.engine.kinds import Pooling
from tei_manager.engine.pooling import TextVectors, finish, pool, token_rows
from tei_manager.grpc.status import Code, StatusError


def f32(values: Any) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


HIDDEN = np.array([[1, 2, 3], [3, 2, 1], [5, 5, 5]], dtype=np.float32)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.CLS, [1, 2, 3]),
        (Pooling.MEAN, [3, 3, 3]),
        (Pooling.LAST_TOKEN, [5, 5, 5]),
        (Pooling.SPLADE, np.log1p(f32([5, 5, 5])).tolist()),
    ],
)
def test_pooling_takes_the_rows_that_its_name_says(pooling: Pooling, expected: list[float]) -> None:
    vector = pool(HIDDEN, pooling)
    assert vector.tolist() == expected
    assert not np.shares_memory(vector, HIDDEN)


def test_splade_weights_are_never_negative_and_zero_where_no_token_says_more() -> None:
    logits = np.array([[-1, 0, 2], [-3, 0, 1]], dtype=np.float32)
    assert pool(logits, Pooling.SPLADE).tolist() == [0, 0, np.log1p(np.float32(2))]


def test_splade_lets_no_broken_logit_pass() -> None:
    logits = np.array([[1, 2], [np.nan, 3]], dtype=np.float32)
    assert np.isnan(pool(logits, Pooling.SPLADE)[0])


def test_a_vector_that_the_graph_made_is_taken_as_it_is() -> None:
    output = Output(tokens=HIDDEN, text=f32([7, 8]))
    assert TextVectors(Pooling.MEAN)(output).tolist() == [7, 8]


def test_dense_layers_stand_behind_the_pooling_in_their_order() -> None:
    half = Dense(f32([[0.1, 0, 0], [0, 0, 0.1]]), f32([0, 1]), np.tanh)
    last = Dense(f32([[1, 1]]), f32([0]), np.array)
    vector = TextVectors(Pooling.CLS, (half, last))(Output(tokens=HIDDEN, text=None))
    np.testing.assert_allclose(vector, [np.tanh(0.1) + np.tanh(1.3)], rtol=1e-6)


def test_a_graph_without_tokens_has_none_to_show() -> None:
    with pytest.raises(StatusError, match="no output for single tokens"):
        token_rows(Output(tokens=None, text=f32([1])))


def test_dimensions_are_cut_before_the_length_is_made_one() -> None:
    vector = np.array([3, 4, 12], dtype=np.float32)
    np.testing.assert_allclose(finish(vector, 2, normalize=True), [0.6, 0.8], rtol=1e-6)
    assert finish(vector, 2, normalize=False).tolist() == [3, 4]
    assert finish(vector, 3, normalize=False).tolist() == [3, 4, 12]


def test_more_dimensions_than_there_are_are_refused() -> None:
    with pytest.raises(StatusError) as refusal:
        finish(np.ones(3, np.float32), 4, normalize=True)
    assert refusal.value.code is Code.INVALID_ARGUMENT


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_vector_without_direction_never_leaves_as_nan(value: float) -> None:
    with pytest.raises(StatusError) as refusal:
        finish(np.full(3, value, np.float32), None, normalize=True)
    assert refusal.value.code is Code.FAILED_PRECONDITION


def test_squares_too_large_for_float32_still_give_a_unit_vector() -> None:
    vector = finish(np.full(4, 1e25, np.float32), None, normalize=True)
    np.testing.assert_allclose(vector, [0.5] * 4, rtol=1e-6)
