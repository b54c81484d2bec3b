"""Instances that come and go leave nothing behind, and hold up neither the API nor calls.

A short run of what ``make long LONG=churn`` does for as long as one likes, with its own bars.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from churn import Churn, many_ports, percentile
from control_plane import running

from tei_manager.manager.workers import COMMAND

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(300)]

STUBS, EXTERNALS, SECONDS = 3, 30, 3.0
"""The lives that have begun after so many seconds are gone through to their end."""

API_BAR, LAG_BAR = 1000.0, 500.0
"""Milliseconds at the 99th percentile: the manager, its user and the clock share this process."""


async def test_nothing_is_left_of_instances_that_came_and_went(tmp_path: Path) -> None:
    async with (
        many_ports(EXTERNALS) as ports,
        running(tmp_path, worker=COMMAND, health={"interval_secs": 5.0}) as rig,
    ):
        rules = rig.manager.settings.instances
        own = [
            *range(rules.port_start, rules.port_end + 1),
            *range(rules.metrics_port_start, rules.metrics_port_end + 1),
        ]
        churn = Churn(rig.api, "{}:{}".format(*rig.manager.address))
        others = await churn.create_externals(ports)
        await churn.run(["warm"], others, 0.1)
        before = await churn.census(os.getpid(), tmp_path, own)
        churn.latencies.clear()
        churn.lags.clear()
        await churn.run([f"stub-{number}" for number in range(STUBS)], others, SECONDS)
        left = await churn.left_since(before, os.getpid(), tmp_path, own)
    assert left == {}
    assert before.series == set(others)
    assert churn.lives >= STUBS
    assert churn.wrong == []
    assert percentile(churn.latencies, 0.99) < API_BAR
    assert percentile(churn.lags, 0.99) < LAG_BAR
