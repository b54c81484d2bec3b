"""A manager for the commands that ask one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_thread import serving


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of its API."""
    with serving(tmp_path_factory.mktemp("m")) as url:
        yield url
