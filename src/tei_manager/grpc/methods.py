"""The one table of RPCs. To add one: its message in the ``.proto``, and a row here.

Everything that the switch has to know about a method stands in its row; no other file names an
RPC. Field numbers are those of ``tei/v1/tei.proto``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum

MULTIPLEXER = "tei_multiplexer.v1.TeiMultiplexer"


class Kind(Enum):
    """How messages flow: at most one or many, from the client and from the server."""

    UNARY = "unary"
    CLIENT_STREAM = "client streaming"
    BIDI = "bidirectional"


class Shape(Enum):
    """What a request message is on the wire."""

    TARGET_ONLY = "target"  # {target = 1}
    WRAPPED = "target and request"  # {target = 1, request = 2}
    PLAIN = "request"  # the request itself; the target is in the metadata


@dataclass(frozen=True, slots=True, eq=False)  # a key of dictionaries on the hot path
class Method:
    """One RPC that goes to an instance.

    Args:
        name: As in the ``.proto``, ``EmbedStream``.
        kind: Which sides send more than one message.
        shape: What its request messages are.
        backend_path: The ``:path`` of the method that serves it at an instance.
        direction_field: Number of ``truncation_direction`` in the inner request, 0 if it has
            none. The one field that is looked at, because TEI aborts on an unknown value.
        path: The ``:path`` that clients call.
        label: Name in metrics, in snake case.
    """

    name: str
    kind: Kind
    shape: Shape
    backend_path: str
    direction_field: int
    path: str
    label: str


def _row(
    name: str, backend: str, kind: Kind, direction: int = 0, shape: Shape = Shape.WRAPPED
) -> Method:
    label = re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
    path = f"/{MULTIPLEXER}/{name}"
    return Method(name, kind, shape, f"/tei.v1.{backend}", direction, path, label)


def _native(row: Method) -> Method:
    """Return the same method as TEI's own clients call it."""
    service = "Rerank" if row.name.startswith("Rerank") else row.backend_path.split("/")[1][7:]
    return replace(row, shape=Shape.PLAIN, path=f"/tei.v1.{service}/{row.name}")


# RerankStream's backend path is what it is built upon, not what it is passed to: TEI never
# answers its own RerankStream (see mux/rerank.py).
_ROWS = (
    _row("Info", "Info/Info", Kind.UNARY, shape=Shape.TARGET_ONLY),
    _row("Embed", "Embed/Embed", Kind.UNARY, 4),
    _row("EmbedStream", "Embed/EmbedStream", Kind.BIDI, 4),
    _row("EmbedSparse", "Embed/EmbedSparse", Kind.UNARY, 3),
    _row("EmbedSparseStream", "Embed/EmbedSparseStream", Kind.BIDI, 3),
    _row("EmbedAll", "Embed/EmbedAll", Kind.UNARY, 3),
    _row("EmbedAllStream", "Embed/EmbedAllStream", Kind.BIDI, 3),
    _row("Predict", "Predict/Predict", Kind.UNARY, 4),
    _row("PredictStream", "Predict/PredictStream", Kind.BIDI, 4),
    _row("PredictPair", "Predict/PredictPair", Kind.UNARY, 4),
    _row("PredictPairStream", "Predict/PredictPairStream", Kind.BIDI, 4),
    _row("Rerank", "Rerank/Rerank", Kind.UNARY, 6),
    _row("RerankStream", "Predict/PredictPairStream", Kind.CLIENT_STREAM, 6),
    _row("Tokenize", "Tokenize/Tokenize", Kind.UNARY),
    _row("TokenizeStream", "Tokenize/TokenizeStream", Kind.BIDI),
    _row("Decode", "Tokenize/Decode", Kind.UNARY),
    _row("DecodeStream", "Tokenize/DecodeStream", Kind.BIDI),
)

METHODS: dict[str, Method] = {row.path: row for row in _ROWS}
"""Every method of the multiplexer by the path that clients call."""

NATIVE: dict[str, Method] = {row.path: row for row in map(_native, _ROWS)}
"""The methods of ``tei.v1`` by their own paths, for unmodified clients of TEI."""

NATIVE_SERVICES = tuple(sorted({path.split("/")[1] for path in NATIVE}))
