"""Choose which waiting texts run together, and run them in a thread.

There is no batching window: when the thread is free it takes what waits. Under load texts pile up
meanwhile, and that is when batches grow.

Which texts
    The first in turn always goes, so nobody starves; calls take turns (`fair_queue`), so a stream
    with hundreds of texts is no worse for others than one with a few. It takes others along while
    each costs less in the batch than it would alone. A run costs its padded size, ``longest x
    texts``, plus a fixed part worth `RUN_OVERHEAD` tokens; so a text may come if the padding it
    brings is at most that. Nearest lengths are asked first. Candidates are the first texts in turn
    that fit the token budget of TEI's ``--max-batch-tokens``: nobody overtakes further than that.

Why batches stay small
    A CPU is fully used by some hundred tokens (`RUN_TOKENS`); beyond that a larger batch only makes
    its first text wait for its last, and falls out of the processor's cache.

Threads
    The event loop appends under a lock and wakes the thread; the thread takes, runs, and hands the
    results of a whole batch to the loop in one call. A cancelled future is seen when a batch is
    chosen, and its text is dropped; a batch that runs is not interrupted.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tei_manager.engine.encoder import Array, Output
from tei_manager.engine.fair_queue import FairQueue
from tei_manager.engine.refusals import backend_failed
from tei_manager.engine.tokenizer import TokenIds
from tei_manager.grpc.status import StatusError

# What a run costs beside its tokens, in tokens: 1.3 ms for 8 tokens against 0.06 ms a token in
# large batches of MiniLM on two cores leave 0.8 ms.
RUN_OVERHEAD = 16

# Tokens that use the processor fully: MiniLM on two cores does 16.7 k tokens/s with 256 in a run,
# 16.7 k with 512, 15.1 k with 4096.
RUN_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Inferred:
    """What came out for one text, and how long it took.

    Args:
        values: What the text's ``reduce`` made of the model's output.
        queue_ns: Time spent waiting for a turn.
        inference_ns: Wall time of the whole batch it ran in.
    """

    values: Array
    queue_ns: int
    inference_ns: int


@dataclass(slots=True, eq=False)
class Entry:
    """A text in the queue.

    Args:
        text: Its token ids.
        reduce: Makes of the model's output, which it must not keep, what is returned for it.
        future: Gets an `Inferred` or an exception; cancelling it withdraws the text.
        arrived_ns: When it was submitted, on the monotonic clock.
    """

    text: TokenIds
    reduce: Callable[[Output], Array]
    future: asyncio.Future[Inferred]
    arrived_ns: int = field(default_factory=time.monotonic_ns)


class Runs(Protocol):
    """What runs a batch; `Encoder` in service, a fake in tests."""

    def run(self, batch: Sequence[TokenIds]) -> list[Output]:
        """Return what the model gives for each text, or raise whatever went wrong."""


class Observes(Protocol):
    """Who is told about the queue; called from the inference thread."""

    def batch_taken(self, texts: int, tokens: int, waiting: int) -> None:
        """Note a batch of ``texts`` texts, ``tokens`` with padding; ``waiting`` remain queued."""

    def dropped(self, texts: int) -> None:
        """Note texts whose callers went away before their turn."""

    def batch_ended(self, error: Exception | None) -> None:
        """Note whether a batch could be run."""


class Batcher:
    """The queue and the thread that empties it.

    Args:
        runs: Runs the batches.
        observer: Is told what happens.
        token_budget: Padded tokens among which a batch is chosen (``--max-batch-tokens``).
        max_texts: Most texts in a batch; no limit if ``None`` (``--max-batch-requests``).

    Ownership:
        `start` makes the thread, `close` ends it; between them `submit` may be called from the
        event loop that `start` was called on.
    """

    def __init__(
        self, runs: Runs, observer: Observes, token_budget: int, max_texts: int | None = None
    ) -> None:
        self._runs = runs
        self._observer = observer
        self._token_budget = token_budget
        self._max_texts = max_texts
        self._queue: FairQueue[Entry] = FairQueue()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread; results are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def submit(self, text: TokenIds, reduce: Callable[[Output], Array]) -> asyncio.Future[Inferred]:
        """Queue a text for the call that the running task serves; each call has a task of its own.

        Args:
            text: At most as long as the token budget.
            reduce: See `Entry`; called in the inference thread. What it raises is the result.

        Returns:
            A future of what ``reduce`` returned. It raises `StatusError` FAILED_PRECONDITION if
            the batch could not be run.

        Cancellation:
            Cancel the future to withdraw the text.
        """
        entry = Entry(text, reduce, self._loop.create_future())
        with self._changed:
            self._queue.append(asyncio.current_task(), entry)
            self._changed.notify()
        return entry.future

    def close(self) -> None:
        """End the thread after the batch that it runs; texts still queued get no answer."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._take():
            self._run(batch)

    def _take(self) -> list[Entry]:
        """Wait for texts and take a batch of them; an empty one says that the batcher is closed."""
        with self._changed:
            while not self._closed:
                self._drop_cancelled()
                if self._queue:
                    return self._take_batch()
                self._changed.wait()
        return []

    def _drop_cancelled(self) -> None:
        if lost := self._queue.drop(lambda entry: entry.future.cancelled()):
            self._observer.dropped(lost)

    def _take_batch(self) -> list[Entry]:
        candidates = within_budget(self._queue.in_turn(), self._token_budget)
        batch = choose(candidates, min(RUN_TOKENS, self._token_budget), self._max_texts)
        self._queue.take(batch)
        longest = max(len(entry.text) for entry in batch)
        self._observer.batch_taken(len(batch), longest * len(batch), len(self._queue))
        return batch

    def _run(self, batch: list[Entry]) -> None:
        """Run a batch and deliver its results, whatever happens."""
        started = time.monotonic_ns()
        error: Exception | None = None
        results: list[Array | Exception]
        try:
            outputs = self._runs.run([entry.text for entry in batch])
            results = [
                _reduced(entry, output) for entry, output in zip(batch, outputs, strict=True)
            ]
        except Exception as failure:  # the runtime may raise anything; the callers get to know
            error = failure
            results = [backend_failed(str(failure)) for _ in batch]
        self._observer.batch_ended(error)
        elapsed = time.monotonic_ns() - started
        self._loop.call_soon_threadsafe(_deliver, batch, results, started, elapsed)


def _reduced(entry: Entry, output: Output) -> Array | Exception:
    try:
        return entry.reduce(output)
    except StatusError as error:
        return error
    except Exception as error:  # a mistake of ours; it must not end the thread
        return backend_failed(repr(error))


def _deliver(
    batch: list[Entry], results: list[Array | Exception], started_ns: int, elapsed_ns: int
) -> None:
    """Fulfil the futures of a batch; on the event loop."""
    for entry, result in zip(batch, results, strict=True):
        if entry.future.done():
            continue
        if isinstance(result, Exception):
            entry.future.set_exception(result)
        else:
            queue_ns = started_ns - entry.arrived_ns
            entry.future.set_result(Inferred(result, queue_ns, elapsed_ns))


def within_budget(queue: Iterable[Entry], token_budget: int) -> list[Entry]:
    """Return the longest head of the queue whose padded size is within the budget, at least one."""
    head: list[Entry] = []
    longest = 0
    for entry in queue:
        longest = max(longest, len(entry.text))
        if head and longest * (len(head) + 1) > token_budget:
            break
        head.append(entry)
    return head


def choose(candidates: list[Entry], run_tokens: int, max_texts: int | None) -> list[Entry]:
    """Return the first candidate and those that are cheaper with it than alone.

    Args:
        candidates: In turn, at least one.
        run_tokens: Padded tokens at which a batch is large enough.
        max_texts: Most texts in the batch; no limit if ``None``.
    """
    batch = [candidates[0]]
    longest = base = len(candidates[0].text)
    for entry in sorted(candidates[1:], key=lambda entry: abs(len(entry.text) - base)):
        length = len(entry.text)
        padded = max(longest, length) * (len(batch) + 1)
        if padded > run_tokens or len(batch) == max_texts:
            break
        if padded - (longest * len(batch) + length) <= RUN_OVERHEAD:
            batch.append(entry)
            longest = max(longest, length)
    return batch
