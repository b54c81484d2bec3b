"""One real call, of the kind that a model serves, which shows that it computes.

Which kinds there are is the router's to say (``InfoResponse.model_type``); what it is asked is
one word, the smallest batch there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from tei_manager.grpc.proto.tei.v1 import tei_pb2

_WORD = "ready"

_EMBEDDING, _CLASSIFIER, _RERANKER = (
    tei_pb2.MODEL_TYPE_EMBEDDING,
    tei_pb2.MODEL_TYPE_CLASSIFIER,
    tei_pb2.MODEL_TYPE_RERANKER,
)

# A model with SPLADE pooling is an embedding model that refuses Embed.
_CALLS: dict[int, Sequence[tuple[str, Message]]] = {
    _EMBEDDING: (
        ("/tei.v1.Embed/Embed", tei_pb2.EmbedRequest(inputs=_WORD)),
        ("/tei.v1.Embed/EmbedSparse", tei_pb2.EmbedSparseRequest(inputs=_WORD)),
    ),
    _CLASSIFIER: (("/tei.v1.Predict/Predict", tei_pb2.PredictRequest(inputs=_WORD)),),
    _RERANKER: (("/tei.v1.Rerank/Rerank", tei_pb2.RerankRequest(query=_WORD, texts=[_WORD])),),
}

HEALTH_SERVICES = {kind: calls[0][0].split("/")[1] for kind, calls in _CALLS.items()}
"""The name in ``grpc.health.v1`` that turns SERVING, by kind of model (tei-behaviour.md 2.9)."""

# Full, and so at work.
_WORKS = grpc.StatusCode.RESOURCE_EXHAUSTED


class Trial:
    """The calls of one channel, which stays the caller's to close."""

    def __init__(self, channel: grpc.aio.Channel, metadata: tuple[tuple[str, str], ...]) -> None:
        self._channel, self._metadata = channel, metadata

    async def run(self, model_type: int, limit: float) -> str:
        """Return why no call of this kind of model is answered; empty if one is.

        Args:
            model_type: Of the Info response; a kind that is not known is asked nothing.
            limit: Seconds for each call.
        """
        refusals = []
        for method, request in _CALLS.get(model_type, ()):
            try:
                await self._call(method, request, limit)
            except grpc.aio.AioRpcError as error:
                if error.code() is _WORKS:
                    return ""
                name = method.rpartition("/")[2]
                refusals.append(f"{name} answers {error.code().name}: {error.details()}")
            else:
                return ""
        return "; ".join(refusals)

    async def _call(self, method: str, request: Message, limit: float) -> None:
        """Make the call; its answer's bytes are not looked at."""
        call: Any = self._channel.unary_unary(method, _serialised, _untouched)
        await call(request, timeout=limit, metadata=self._metadata)


def _serialised(message: Message) -> bytes:
    return message.SerializeToString()


def _untouched(answer: bytes) -> bytes:
    return answer
