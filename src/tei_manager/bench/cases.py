"""What is measured: ten cases in three groups, each with what the Rust original published for it.

A case of `embedding_overhead` is one call of Embed; one of `concurrent_requests` is N calls begun
at once, until the last is done; one of `streaming_requests` is one EmbedStream with N requests,
until its last answer. The published figures are of another machine (an RTX 4080 SUPER with
bge-small-en-v1.5), and each of their calls opened a new connection, on both ways.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Kind = Literal["unary", "concurrent", "stream"]


class Group(StrEnum):
    """Cases that are sent in the same way."""

    EMBEDDING_OVERHEAD = "embedding_overhead"
    CONCURRENT_REQUESTS = "concurrent_requests"
    STREAMING_REQUESTS = "streaming_requests"


@dataclass(frozen=True)
class Published:
    """What the Rust original's page says of a case, in µs.

    Args:
        direct: Time to the instance itself.
        through: Time through its multiplexer.
    """

    direct: float
    through: float

    @property
    def overhead(self) -> float:
        """What its multiplexer added, in µs."""
        return self.through - self.direct


@dataclass(frozen=True)
class Case:
    """One row of the comparison.

    Args:
        name: The row's title.
        kind: How its texts are sent.
        texts: One for each request.
        published: The figures that stand beside ours.
    """

    name: str
    kind: Kind
    texts: tuple[str, ...]
    published: Published


_WORDS = ("quick", "brown", "foxes", "jump", "over", "lazy", "dogs", "again")
_SHORT = 8


def _text(words: int, number: int = 0) -> str:
    """Return a text of so many words; those of one case differ, and are equally long."""
    return f"{number:02} " + " ".join(_WORDS[n % len(_WORDS)] for n in range(words - 1))


def _unary(name: str, words: int, direct: float, through: float) -> Case:
    return Case(name, "unary", (_text(words),), Published(direct, through))


def _many(name: str, kind: Kind, count: int, direct: float, through: float) -> Case:
    texts = tuple(_text(_SHORT, n) for n in range(count))
    return Case(f"{name} {count}", kind, texts, Published(direct, through))


GROUPS: Mapping[Group, tuple[Case, ...]] = {
    Group.EMBEDDING_OVERHEAD: (
        _unary("short", _SHORT, 1093.7, 1262.0),
        _unary("medium", 32, 1133.3, 1382.7),
        _unary("long", 128, 1472.4, 1656.8),
        _unary("extra-long", 400, 2147.7, 2305.3),
    ),
    Group.CONCURRENT_REQUESTS: (
        _many("concurrency", "concurrent", 5, 1688.4, 1825.5),
        _many("concurrency", "concurrent", 10, 1960.7, 2151.4),
        _many("concurrency", "concurrent", 20, 3821.0, 4184.4),
    ),
    Group.STREAMING_REQUESTS: (
        _many("stream", "stream", 5, 1767.7, 2054.0),
        _many("stream", "stream", 10, 1985.3, 2267.9),
        _many("stream", "stream", 20, 3617.9, 3654.7),
    ),
}
"""All cases by group, in the order in which they are measured and shown."""


def cases(group: Group | None = None) -> tuple[Case, ...]:
    """Return the cases of a group, or all of them."""
    groups = [group] if group else list(GROUPS)
    return tuple(case for each in groups for case in GROUPS[each])
