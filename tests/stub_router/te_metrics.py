"""A page of metrics as text-embeddings-router writes it: its names, no HELP, no ``_total``."""

from __future__ import annotations

from collections.abc import Iterator

COUNTERS = {
    "te_request_count": 'method="single"',
    "te_request_success": 'method="single"',
    "te_request_failure": 'err="overloaded"',
    "te_embed_count": "",
    "te_embed_success": "",
    "te_predict_count": "",
    "te_predict_success": "",
}
"""Each with a label that it has."""

_STAGES = ("duration", "tokenization_duration", "queue_duration", "inference_duration")

HISTOGRAMS = (
    *(f"te_{what}_{stage}" for what in ("request", "embed", "predict") for stage in _STAGES),
    "te_request_input_length",
    "te_batch_next_size",
    "te_batch_next_tokens",
)
GAUGES = ("te_queue_size",)


def te_page(count: int = 7) -> str:
    """A page on which every counter, and the count of every histogram, is ``count``."""
    return "\n".join(_lines(count)) + "\n"


def _lines(count: int) -> Iterator[str]:
    for name, labels in COUNTERS.items():
        yield f"# TYPE {name} counter"
        yield f"{name}{{{labels}}} {count}" if labels else f"{name} {count}"
        yield ""
    for name in GAUGES:
        yield f"# TYPE {name} gauge\n{name} {count}\n"
    for name in HISTOGRAMS:
        yield f"# TYPE {name} histogram"
        for bound in ("0.000015", "0.0000225", "+Inf"):
            yield f'{name}_bucket{{le="{bound}"}} {count}'
        yield f"{name}_sum {count * 0.000015}\n{name}_count {count}\n"
