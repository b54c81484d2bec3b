from __future__ import annotations

import asyncio

import pytest

from tei_manager.engine.permits import Permits
from tei_manager.grpc.status import Code, StatusError


@pytest.mark.asyncio
async def test_a_unary_call_is_refused_when_all_are_taken_and_not_afterwards() -> None:
    permits = Permits(1)
    await permits.take()
    with pytest.raises(StatusError) as refusal:
        await permits.take()
    assert (refusal.value.code, refusal.value.message) == (
        Code.RESOURCE_EXHAUSTED,
        "Model is overloaded",
    )
    permits.give_back()
    await permits.take()


@pytest.mark.asyncio
async def test_streams_leave_a_quarter_to_unary_calls() -> None:
    permits = Permits(4)
    for _ in range(3):
        await permits.wait()
    fourth = asyncio.create_task(permits.wait())
    await asyncio.sleep(0)
    assert not fourth.done()
    await permits.take()
    permits.give_back_waited()
    await asyncio.wait_for(fourth, 5)


@pytest.mark.asyncio
async def test_a_cancelled_wait_holds_nothing() -> None:
    permits = Permits(1)
    await permits.take()
    waiting = asyncio.create_task(permits.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    permits.give_back()
    await asyncio.wait_for(permits.wait(), 5)
    permits.give_back_waited()
    await permits.take()
