"""``--api-key``: callers of TEI's services must know it. Health and reflection stay open."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc

_Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class ApiKey(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Refuses calls of ``tei.v1`` without the key, before anything else is looked at.

    Args:
        key: What must follow ``Bearer`` in the metadata ``authorization``, exactly.
    """

    def __init__(self, key: str) -> None:
        self._expected = f"Bearer {key}".encode()
        self._refusal = grpc.stream_stream_rpc_method_handler(_refuse)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[_Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> _Handler:
        """Return the method's handler, or one that refuses whatever kind of call it is."""
        if handler_call_details.method.startswith("/tei.v1."):
            sent = dict(handler_call_details.invocation_metadata or ()).get("authorization", "")
            raw = sent if isinstance(sent, bytes) else sent.encode()
            if not hmac.compare_digest(raw, self._expected):
                return self._refusal
        return await continuation(handler_call_details)


async def _refuse(_requests: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(grpc.StatusCode.UNAUTHENTICATED, "No valid auth token")
