"""The texts of one Rerank on their way through the model, and the order that comes of it.

Each text is an entry of its own in the queue and waits for a permit of its own, so texts of one
call share batches with those of others. The first failure in their order fails the call.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from tei_manager.engine.batcher import Inferred
from tei_manager.engine.cost import Cost
from tei_manager.engine.metrics import Metrics
from tei_manager.engine.permits import Permits
from tei_manager.engine.pipeline import Input, Pipeline, Work
from tei_manager.engine.scores import descending, logits_of, scores_of
from tei_manager.engine.tokenizer import Direction
from tei_manager.grpc.proto.tei.v1 import tei_pb2


class Ranking:
    """The texts of one call.

    Args:
        pipeline: The way of a text.
        permits: Of which each text needs one.
        metrics: Counts the texts.
        raw: Whether logits are sent as they are.

    Ownership:
        `close` withdraws what has no answer yet.
    """

    def __init__(
        self, pipeline: Pipeline, permits: Permits, metrics: Metrics, *, raw: bool
    ) -> None:
        self._pipeline = pipeline
        self._permits = permits
        self._metrics = metrics
        self._raw = raw
        self._works: list[Work] = []
        self._texts: list[str | None] = []
        self._started_ns = time.monotonic_ns()

    def __len__(self) -> int:
        return len(self._works)

    async def add(self, query: str, text: str, cut: Direction | None, *, keep: bool) -> None:
        """Wait for a permit and queue a text.

        Args:
            query: What the text is held against.
            text: The text.
            cut: Which end to cut if both are too long; ``None`` refuses them.
            keep: Whether the text is sent back with its score.

        Raises:
            StatusError: This text is refused, or one before it has failed.
        """
        self._metrics.text_started("predict")
        submit = partial(self._pipeline.submit, Input(query, None, cut, text), logits_of)
        try:
            work = await self._permits.lend(submit)
        except Exception:
            await self._scores()
            raise
        self._works.append(work)
        self._texts.append(text if keep else None)

    async def response(self) -> tuple[tei_pb2.RerankResponse, Cost]:
        """Wait for all texts and return them, best first.

        Raises:
            StatusError: Of the first text that failed.
        """
        scores, costs = await self._scores()
        ranks = [
            tei_pb2.Rank(index=index, text=self._texts[index], score=scores[index])
            for index in descending(np.array(scores, dtype=np.float32))
        ]
        cost = self._together(costs)
        return tei_pb2.RerankResponse(ranks=ranks, metadata=cost.metadata()), cost

    async def _scores(self) -> tuple[list[float], list[Cost]]:
        """Wait for all texts; the first failure in their order is raised."""
        answers = [(work, await work.future) for work in self._works]
        return [self._score(answer) for _, answer in answers], [
            work.cost(answer) for work, answer in answers
        ]

    def _score(self, inferred: Inferred) -> float:
        return float(scores_of(inferred.values, raw=self._raw)[0])

    def _together(self, costs: list[Cost]) -> Cost:
        """Return what all texts cost: sums of what is counted, means of what is timed."""
        for cost in costs:
            self._metrics.text_succeeded("predict", cost)
        count = len(costs)
        return Cost(
            characters=sum(cost.characters for cost in costs),
            tokens=sum(cost.tokens for cost in costs),
            total_ns=time.monotonic_ns() - self._started_ns,
            tokenization_ns=sum(cost.tokenization_ns for cost in costs) // count,
            queue_ns=sum(cost.queue_ns for cost in costs) // count,
            inference_ns=sum(cost.inference_ns for cost in costs) // count,
        )

    def close(self) -> None:
        """Withdraw the texts that have no answer yet."""
        for work in self._works:
            work.abandon()
