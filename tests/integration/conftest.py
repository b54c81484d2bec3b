"""Managers of their own, and nothing of them left when a test has failed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from manager_process import Home


@pytest.fixture
def homes() -> Iterator[list[Home]]:
    """Takes each home that a test makes, and ends what still runs there."""
    made: list[Home] = []
    yield made
    for home in made:
        home.clean()
