"""Twenty seconds of mixed calls against a multiplexer in a process; `make long` makes it hours."""

from __future__ import annotations

import pytest

from soak import SHARES, soak

SECONDS = 20.0
MOST_MIB = 16.0
"""By how much the process may grow from its fifth second on. In so short a time a slope says
little: Python's own arenas come in steps of one MiB."""


@pytest.mark.timeout(180)
@pytest.mark.asyncio
async def test_twenty_seconds_of_everything_leave_nothing_and_no_answer_is_wrong() -> None:
    async with soak() as load:
        figures = await load.run(SECONDS)
    assert not figures.wrong, figures.wrong[:5]
    assert set(figures.calls) == set(SHARES), "a kind of call never came"
    assert not any(figures.gauges.values())
    assert len(figures.gauges) == 4
    assert figures.fds[1] <= figures.fds[0], "file descriptors are left"
    assert figures.total > 200
    late = [mib for seconds, mib in figures.memory if seconds >= SECONDS / 4]
    assert max(late) - late[0] <= MOST_MIB
