"""What a request cost, in the two forms that TEI reports: a message and eight headers."""

from __future__ import annotations

from dataclasses import dataclass

from tei_manager.grpc.proto.tei.v1 import tei_pb2

_NS_PER_MS = 1_000_000


@dataclass(frozen=True, slots=True)
class Cost:
    """The work behind one answer.

    Args:
        characters: Unicode scalar values of the input, a prompt not counted.
        tokens: What the model read: after truncation, prompt and special tokens included.
        total_ns: From the start of the handler to the response.
        tokenization_ns: Until the text was tokenised, waiting for a thread included.
        queue_ns: Waiting for a turn to be run.
        inference_ns: Wall time of the whole batch.
    """

    characters: int
    tokens: int
    total_ns: int
    tokenization_ns: int
    queue_ns: int
    inference_ns: int

    def metadata(self) -> tei_pb2.Metadata:
        """Return the message that a response carries."""
        return tei_pb2.Metadata(
            compute_chars=self.characters,
            compute_tokens=self.tokens,
            total_time_ns=self.total_ns,
            tokenization_time_ns=self.tokenization_ns,
            queue_time_ns=self.queue_ns,
            inference_time_ns=self.inference_ns,
        )

    def headers(self) -> tuple[tuple[str, str], ...]:
        """Return the headers of a unary response; times are whole milliseconds, rounded down."""
        total = str(self.total_ns // _NS_PER_MS)
        return (
            ("x-compute-type", "gpu+optimized"),  # TEI says so on every device
            ("x-compute-time", total),
            ("x-compute-characters", str(self.characters)),
            ("x-compute-tokens", str(self.tokens)),
            ("x-total-time", total),
            ("x-tokenization-time", str(self.tokenization_ns // _NS_PER_MS)),
            ("x-queue-time", str(self.queue_ns // _NS_PER_MS)),
            ("x-inference-time", str(self.inference_ns // _NS_PER_MS)),
        )
