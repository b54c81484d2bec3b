"""``tei.v1.Info``: what is served, and within which limits."""

from __future__ import annotations

import grpc

from tei_manager import __version__
from tei_manager.engine.flags import Flags
from tei_manager.engine.kinds import Kind
from tei_manager.engine.rpc import Calls, Running
from tei_manager.grpc.proto.tei.v1 import tei_pb2

_TYPES = {
    Kind.EMBEDDING: tei_pb2.MODEL_TYPE_EMBEDDING,
    Kind.CLASSIFIER: tei_pb2.MODEL_TYPE_CLASSIFIER,
    Kind.RERANKER: tei_pb2.MODEL_TYPE_RERANKER,
}


def info_handlers(
    flags: Flags, kind: Kind, max_input_length: int
) -> grpc.GenericRpcHandler[object, object]:
    """Return the methods of ``tei.v1.Info``; the answer is the same as long as the engine runs.

    Args:
        flags: As given; ``model_id`` and ``revision`` are echoed.
        kind: What the model is for.
        max_input_length: The effective one, in tokens.
    """
    response = tei_pb2.InfoResponse(
        version=__version__,
        model_id=flags.model_id,
        model_sha=flags.revision,
        model_dtype=flags.dtype,
        model_type=_TYPES[kind],
        max_concurrent_requests=flags.max_concurrent_requests,
        max_input_length=max_input_length,
        max_batch_tokens=flags.max_batch_tokens,
        max_batch_requests=flags.max_batch_requests,
        max_client_batch_size=flags.max_client_batch_size,
        tokenization_workers=flags.tokenization_workers,
    )

    async def info(_request: tei_pb2.InfoRequest) -> Running:
        return Running.done(response)

    methods = {"Info": Calls().unary(tei_pb2.InfoRequest, info)}
    return grpc.method_handlers_generic_handler("tei.v1.Info", methods)
