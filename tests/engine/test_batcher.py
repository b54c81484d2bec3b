from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.engine.batcher import (
    RUN_OVERHEAD,
    Batcher,
    Entry,
    Inferred,
    choose,
    within_budget,
)
from tei_manager.engine.encoder import Array, Output
from tei_manager.engine.tokenizer import TokenIds
from tei_manager.grpc.status import Code, StatusError

# Nothing here takes longer; a test that hangs fails by this.
SECONDS = 10


class Runs:
    """Stands in for the model: echoes ids as vectors, and can be held and made to fail."""

    def __init__(self) -> None:
        self.batches: list[list[list[int]]] = []
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.failure: Exception | None = None

    def run(self, batch: Sequence[TokenIds]) -> list[Output]:
        self.batches.append([text.ids for text in batch])
        self.entered.set()
        assert self.gate.wait(SECONDS)
        if self.failure is not None:
            raise self.failure
        rows = [np.array(text.ids, dtype=np.float32)[:, None] for text in batch]
        return [Output(tokens=row, text=None) for row in rows]


class Observer:
    def __init__(self) -> None:
        self.taken: list[tuple[int, int, int]] = []
        self.lost = 0
        self.errors: list[Exception | None] = []

    def batch_taken(self, texts: int, tokens: int, waiting: int) -> None:
        self.taken.append((texts, tokens, waiting))

    def dropped(self, texts: int) -> None:
        self.lost += texts

    def batch_ended(self, error: Exception | None) -> None:
        self.errors.append(error)


def _text(*ids: int) -> TokenIds:
    return TokenIds(list(ids), [0] * len(ids))


def _first(output: Output) -> Array:
    assert output.tokens is not None
    return np.array(output.tokens[0])


@asynccontextmanager
async def _started(runs: Runs, observer: Observer, budget: int = 100) -> AsyncIterator[Batcher]:
    batcher = Batcher(runs, observer, budget)
    batcher.start()
    try:
        yield batcher
    finally:
        runs.gate.set()
        await asyncio.to_thread(batcher.close)


async def _entered(runs: Runs) -> None:
    """Wait until a batch is running."""
    assert await asyncio.to_thread(runs.entered.wait, SECONDS)


@pytest.mark.asyncio
async def test_a_lone_text_runs_at_once_and_gets_its_own_result() -> None:
    runs, observer = Runs(), Observer()
    async with _started(runs, observer) as batcher:
        result = await asyncio.wait_for(batcher.submit(_text(5, 6), _first), SECONDS)
    assert result.values.tolist() == [5]
    assert observer.taken == [(1, 2, 0)]
    assert observer.errors == [None]


@pytest.mark.asyncio
async def test_texts_that_wait_for_the_model_run_together() -> None:
    runs, observer = Runs(), Observer()
    runs.gate.clear()
    async with _started(runs, observer) as batcher:
        first = batcher.submit(_text(1), _first)
        await _entered(runs)
        others = [batcher.submit(_text(number), _first) for number in (2, 3, 4)]
        runs.gate.set()
        results = await asyncio.wait_for(asyncio.gather(first, *others), SECONDS)
    assert [result.values.tolist() for result in results] == [[1], [2], [3], [4]]
    assert runs.batches == [[[1]], [[2], [3], [4]]]


@pytest.mark.asyncio
async def test_a_call_with_many_texts_does_not_hold_up_one_that_comes_later() -> None:
    async def stream(batcher: Batcher) -> None:
        await asyncio.gather(*[batcher.submit(_text(*[1] * 60), _first) for _ in range(20)])

    async def unary(batcher: Batcher) -> None:
        await batcher.submit(_text(*[2] * 60), _first)

    runs = Runs()
    runs.gate.clear()
    async with _started(runs, Observer(), budget=100) as batcher:
        many = asyncio.create_task(stream(batcher))
        await _entered(runs)
        one = asyncio.create_task(unary(batcher))
        await asyncio.sleep(0)
        runs.gate.set()
        await asyncio.wait_for(asyncio.gather(many, one), SECONDS)
    assert [batch[0][0] for batch in runs.batches].index(2) <= 2


@pytest.mark.asyncio
async def test_a_cancelled_text_is_never_run() -> None:
    runs, observer = Runs(), Observer()
    runs.gate.clear()
    async with _started(runs, observer) as batcher:
        first = batcher.submit(_text(1), _first)
        await _entered(runs)
        gone, stays = batcher.submit(_text(2), _first), batcher.submit(_text(3), _first)
        gone.cancel()
        runs.gate.set()
        await asyncio.wait_for(asyncio.gather(first, stays), SECONDS)
    assert runs.batches == [[[1]], [[3]]]
    assert observer.lost == 1


@pytest.mark.asyncio
async def test_a_batch_that_fails_answers_all_its_texts_and_the_next_one_runs() -> None:
    runs, observer = Runs(), Observer()
    async with _started(runs, observer) as batcher:
        runs.failure = RuntimeError("out of memory")
        with pytest.raises(StatusError) as failure:
            await asyncio.wait_for(batcher.submit(_text(1), _first), SECONDS)
        runs.failure = None
        await asyncio.wait_for(batcher.submit(_text(2), _first), SECONDS)
    assert failure.value.code is Code.FAILED_PRECONDITION
    assert failure.value.message == "Backend error: out of memory"
    assert [error is None for error in observer.errors] == [False, True]


@pytest.mark.asyncio
async def test_a_text_whose_result_is_refused_does_not_harm_its_neighbours() -> None:
    def refuse(output: Output) -> Array:
        raise StatusError(Code.INVALID_ARGUMENT, "no")

    runs, observer = Runs(), Observer()
    runs.gate.clear()
    async with _started(runs, observer) as batcher:
        first = batcher.submit(_text(1), _first)
        await _entered(runs)
        bad, good = batcher.submit(_text(2), refuse), batcher.submit(_text(3), _first)
        runs.gate.set()
        results = await asyncio.wait_for(
            asyncio.gather(first, bad, good, return_exceptions=True), SECONDS
        )
    assert isinstance(results[1], StatusError)
    assert isinstance(results[2], Inferred)
    assert observer.errors == [None, None]


@pytest.mark.asyncio
async def test_an_exception_in_a_reduction_is_an_answer_and_the_thread_lives() -> None:
    def broken(output: Output) -> Array:
        raise ZeroDivisionError("our own mistake")

    runs, observer = Runs(), Observer()
    async with _started(runs, observer) as batcher:
        with pytest.raises(StatusError, match="our own mistake"):
            await asyncio.wait_for(batcher.submit(_text(1), broken), SECONDS)
        await asyncio.wait_for(batcher.submit(_text(2), _first), SECONDS)


def _entries(lengths: Sequence[int]) -> list[Entry]:
    loop = asyncio.new_event_loop()
    try:
        return [Entry(_text(*range(length)), _first, loop.create_future()) for length in lengths]
    finally:
        loop.close()


def _lengths(entries: Sequence[Entry]) -> list[int]:
    return [len(entry.text) for entry in entries]


def test_the_oldest_takes_along_texts_of_about_its_length() -> None:
    batch = choose(_entries([100, 8, 101, 9, 99]), 512, None)
    assert _lengths(batch) == [100, 101, 99]


def test_a_limit_of_texts_holds() -> None:
    assert len(choose(_entries([5] * 9), 512, 4)) == 4


def test_the_budget_counts_padding_and_stops_at_the_first_text_too_many() -> None:
    assert _lengths(within_budget(_entries([10, 20, 50, 1]), 100)) == [10, 20]
    assert _lengths(within_budget(_entries([10, 10]), 100)) == [10, 10]


@given(
    st.lists(st.integers(1, 64), min_size=1, max_size=40),
    st.integers(64, 512),
    st.one_of(st.none(), st.integers(1, 8)),
)
def test_any_batch_has_the_oldest_keeps_the_limits_and_costs_no_more_than_single_runs(
    lengths: list[int], run_tokens: int, max_texts: int | None
) -> None:
    entries = _entries(lengths)
    batch = choose(entries, run_tokens, max_texts)
    padded = max(_lengths(batch)) * len(batch)
    assert batch[0] is entries[0]
    assert len(set(map(id, batch))) == len(batch)
    assert len(batch) <= (max_texts or len(batch))
    assert padded <= run_tokens
    assert padded <= sum(_lengths(batch)) + RUN_OVERHEAD * (len(batch) - 1)
