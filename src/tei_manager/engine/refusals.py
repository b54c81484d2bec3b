"""The statuses by which TEI refuses a request, with TEI's words.

Clients match on these texts, so a text is changed only when TEI changes it. Where TEI aborts its
process (an unknown truncation direction) or sends NaN, the words are ours. Four rows of TEI's
table are given by the gRPC library below us, in its own words: a message over 16 MiB is
RESOURCE_EXHAUSTED and not OUT_OF_RANGE, as one over 4 MiB is here and there; a call whose deadline
passes is DEADLINE_EXCEEDED and not CANCELLED; a compressed message is UNIMPLEMENTED, as in TEI; an
unknown method is UNIMPLEMENTED, as in TEI, and has a text.
"""

from __future__ import annotations

from collections.abc import Iterable

from tei_manager.grpc.status import Code, StatusError


class Refusal(StatusError):
    """A status with its name in the metric ``te_request_failure``.

    Args:
        code: The gRPC status.
        message: Its text.
        kind: The value of the metric's label ``err``.
    """

    def __init__(self, code: Code, message: str, kind: str) -> None:
        super().__init__(code, message)
        self.kind = kind


def invalid(reason: str) -> Refusal:
    """Refuse an input for what it says."""
    message = f"Input validation error: {reason}"
    return Refusal(Code.INVALID_ARGUMENT, message, "validation")


def empty(field: str) -> Refusal:
    """Refuse an input that is not there."""
    return invalid(f"`{field}` cannot be empty")


def unknown_direction(value: int) -> Refusal:
    """Refuse a truncation direction that the enum lacks."""
    return invalid(f"`truncation_direction` must be 0 (right) or 1 (left). Given: {value}")


def unknown_prompt(name: str, known: Iterable[str]) -> Refusal:
    """Refuse the name of a prompt that the model does not have."""
    start = f"`default-prompt-name` is set to `{name}` but"
    quoted = ", ".join(f'"{prompt}"' for prompt in known)
    if not quoted:
        return invalid(f"{start} no prompts were found in the Sentence Transformers configuration")
    return invalid(
        f"{start} it was not found in the Sentence Transformers prompts. "
        f"Available prompts: [{quoted}]"
    )


def overloaded() -> Refusal:
    """Refuse a unary request because all permits are taken."""
    return Refusal(Code.RESOURCE_EXHAUSTED, "Model is overloaded", "overloaded")


def backend_failed(reason: str) -> Refusal:
    """Answer a request whose batch could not be run."""
    return Refusal(Code.FAILED_PRECONDITION, f"Backend error: {reason}", "inference")


def tokenizer_failed(reason: str) -> Refusal:
    """Answer a request whose text could not be tokenised, or whose ids not be decoded."""
    return Refusal(Code.FAILED_PRECONDITION, f"tokenizer error {reason}", "tokenization")


def _model_type(message: str) -> Refusal:
    return Refusal(Code.FAILED_PRECONDITION, message, "model_type")


def no_embedding() -> Refusal:
    """Refuse Embed and EmbedAll on a classifier or reranker."""
    return _model_type("Backend error: Model is not an embedding model")


def no_splade() -> Refusal:
    """Refuse EmbedSparse on a model that has no sparse output."""
    return _model_type("Backend error: Model is not an embedding model with SPLADE pooling")


def all_of_splade() -> Refusal:
    """Refuse EmbedAll on a model whose embeddings are sparse."""
    return _model_type("Backend error: `embed_all` is not available for SPLADE models")


def normalized_splade() -> Refusal:
    """Refuse Embed on a model whose embeddings are sparse, unless it says not to normalise."""
    return _model_type("Backend error: `normalize` is not available for SPLADE models")


def no_classifier() -> Refusal:
    """Refuse Predict and PredictPair on an embedding model."""
    return _model_type("Backend error: Model is not a classifier model")


def no_classifier_to_rank() -> Refusal:
    """Refuse Rerank on an embedding model; TEI puts no prefix before this one."""
    return _model_type("model is not a classifier model")


def no_reranker() -> Refusal:
    """Refuse Rerank on a classifier of more labels than one; no prefix here either."""
    return _model_type("model is not a re-ranker model")


def nan_score() -> Refusal:
    """Answer a text whose score is no number; TEI puts no prefix before this one."""
    return Refusal(Code.FAILED_PRECONDITION, "score is NaN", "inference")


def prompt_for_pair() -> Refusal:
    """Refuse a pair of texts where a prompt would go before a single one."""
    return invalid("`prompt_name` cannot be set with dual inputs")


def too_many_texts(count: int, limit: int) -> Refusal:
    """Refuse a Rerank over ``--max-client-batch-size``; TEI puts no prefix before this one."""
    message = f"batch size {count} > maximum allowed batch size {limit}"
    return Refusal(Code.INVALID_ARGUMENT, message, "batch_size")


def too_much_to_rank(texts: int, octets: int) -> Refusal:
    """Refuse a RerankStream that does not end; the words are ours."""
    message = f"RerankStream takes at most {texts} texts or {octets} bytes"
    return Refusal(Code.RESOURCE_EXHAUSTED, message, "batch_size")


def no_texts() -> Refusal:
    """Refuse a Rerank without texts; TEI puts no prefix before this one."""
    return Refusal(Code.INVALID_ARGUMENT, "`texts` cannot be empty", "validation")


def wrong_pair(count: int) -> Refusal:
    """Refuse a PredictPair that has neither one input nor two; TEI gives no prefix here either."""
    message = f"`inputs` must have a single or two elements. Given: {count}"
    return Refusal(Code.INVALID_ARGUMENT, message, "validation")


def too_long(size: int, limit: int) -> Refusal:
    """Refuse a message that is too large."""
    message = f"Error, message length too large: found {size} bytes, the limit is: {limit} bytes"
    return Refusal(Code.OUT_OF_RANGE, message, "validation")


def undecodable(reason: str) -> Refusal:
    """Answer a message that is no protobuf of its type."""
    message = f"failed to decode Protobuf message: {reason}"
    return Refusal(Code.INTERNAL, message, "validation")


def missing() -> Refusal:
    """Answer a unary call that ended before its message."""
    return Refusal(Code.INTERNAL, "Missing request message.", "validation")
