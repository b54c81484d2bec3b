from __future__ import annotations

import numpy as np
import pytest

from tei_manager.engine.config import Pooling
from tei_manager.engine.pooling import finish, pool
from tei_manager.grpc.status import Code, StatusError

HIDDEN = np.array([[1, 2, 3], [3, 2, 1], [5, 5, 5]], dtype=np.float32)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        (Pooling.CLS, [1, 2, 3]),
        (Pooling.MEAN, [3, 3, 3]),
        (Pooling.LAST_TOKEN, [5, 5, 5]),
    ],
)
def test_pooling_takes_the_rows_that_its_name_says(pooling: Pooling, expected: list[float]) -> None:
    vector = pool(HIDDEN, pooling)
    assert vector.tolist() == expected
    assert not np.shares_memory(vector, HIDDEN)


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
