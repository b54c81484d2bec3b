"""One side of the engine's comparison in a process of its own: torch, or the bare session.

    python benchmarks/engine_worker.py torch MODEL_DIR
    python -m benchmarks.engine_worker bare MODEL_DIR

Answers one JSON object a line with another. ``{"single": TEXT, "times": N}`` runs a text N times by
itself and gives the ``ms`` of each; ``{"many": [TEXT, ...]}`` gives the ``seconds`` for all of
them; ``{"batches": [[[ID, ...], ...], ...]}`` gives those for batches of token ids. Torch runs in
an environment that has nothing of ours, so everything is imported where it is used.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

Thunk = Callable[[], object]


class Torch:
    """`sentence-transformers` on the CPU with its defaults: batches of 32, sorted by length."""

    def __init__(self, model: str) -> None:
        from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found]

        self._model: Any = SentenceTransformer(model, device="cpu")

    def single(self, text: str) -> Thunk:
        """Return what embeds one text."""
        return lambda: self._model.encode(text, normalize_embeddings=True)

    def many(self, texts: list[str]) -> Thunk:
        """Return what embeds all texts."""
        return lambda: self._model.encode(texts, normalize_embeddings=True)


class Bare:
    """The engine's session by itself: token ids in, hidden states out, nothing else is timed."""

    def __init__(self, model: str) -> None:
        from tei_manager.engine.flags import parse_flags
        from tei_manager.engine.loading import load

        self._loaded = load(parse_flags(["--model-id", model], {}))

    def single(self, text: str) -> Thunk:
        """Return what runs one text."""
        ids = self._loaded.tokenizer.encode("", text, None)
        return lambda: self._loaded.encoder.run([ids])

    def batches(self, batches: list[list[list[int]]]) -> Thunk:
        """Return what runs these batches, one after the other."""
        from tei_manager.engine.tokenizer import TokenIds

        texts = [[TokenIds(ids, [0] * len(ids)) for ids in batch] for batch in batches]
        return lambda: [self._loaded.encoder.run(batch) for batch in texts]


def main() -> None:
    """Answer until the input ends."""
    side: Any = {"torch": Torch, "bare": Bare}[sys.argv[1]](sys.argv[2])
    print("{}", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        times = order.pop("times", None)
        ((kind, what),) = order.items()
        run = getattr(side, kind)(what)
        if times is None:
            print(json.dumps({"seconds": _seconds(run)}), flush=True)
        else:
            print(json.dumps({"ms": [_seconds(run) * 1e3 for _ in range(times)]}), flush=True)


def _seconds(run: Thunk) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
