"""The texts that the engine and its peer are measured with; the same in every run."""

from __future__ import annotations

import random

SHORT = "What is the capital of France?"

# 256 tokens of MiniLM, special ones included.
LONG = "word " * 254

COUNT = 1_000

_PROSE = """the river under old bridge runs slowly past houses where people once kept boats and nets
while embeddings of short sentences are compared by their angle in a space of vectors"""


def mixed() -> list[str]:
    """Return a thousand texts, most of them short and some as long as the model reads.

    Their lengths in words are log-normal, about 20 in the middle and 45 on average, which is what
    titles, sentences and paragraphs in one index look like.
    """
    chance, words = random.Random(11), _PROSE.split()
    lengths = (min(240, max(3, round(chance.lognormvariate(3, 1)))) for _ in range(COUNT))
    return [" ".join(chance.choices(words, k=length)) for length in lengths]
