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


class Item:
    """Something that was started and is done when the test says so."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()


async def _started() -> Item:
    return Item()


async def _refused() -> Item:
    raise StatusError(Code.INVALID_ARGUMENT, "no")


@pytest.mark.asyncio
async def test_streams_leave_a_quarter_to_unary_calls() -> None:
    permits = Permits(4)
    items = [await permits.lend(_started) for _ in range(3)]
    fourth = asyncio.create_task(permits.lend(_started))
    await asyncio.sleep(0)
    assert not fourth.done()
    await permits.take()
    items[0].future.set_result(None)
    await asyncio.wait_for(fourth, 5)


@pytest.mark.asyncio
async def test_what_cannot_be_started_holds_nothing() -> None:
    permits = Permits(1)
    with pytest.raises(StatusError):
        await permits.lend(_refused)
    await permits.take()


@pytest.mark.asyncio
async def test_a_cancelled_wait_holds_nothing() -> None:
    permits = Permits(1)
    await permits.take()
    waiting = asyncio.create_task(permits.lend(_started))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    permits.give_back()
    item = await asyncio.wait_for(permits.lend(_started), 5)
    item.future.cancel()
    await asyncio.sleep(0)
    await permits.take()
