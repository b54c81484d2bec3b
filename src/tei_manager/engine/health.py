"""``grpc.health.v1.Health`` with TEI's service names and, unlike TEI's, a way back to SERVING.

In TEI a failed batch makes the model's service NOT_SERVING until some later batch succeeds; a
proxy that then stops sending would wait for ever. Here a failed batch is followed by small ones of
our own until one succeeds. ``Watch`` sends changes only. An unknown name is NOT_FOUND in both
methods, as in TEI; ``List`` is not in TEI and is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import grpc
from grpc_health.v1 import health_pb2

from tei_manager.engine.kinds import Kind
from tei_manager.engine.rpc import Calls, Context, Handler, Running, abort, parse
from tei_manager.grpc.status import Code, StatusError

_log = logging.getLogger(__name__)

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

# The services that TEI calls healthy whatever the model does, and those that stand for the model.
_ALWAYS = ("", "tei.v1.Info", "tei.v1.Tokenize")
_OF_KIND = {
    Kind.EMBEDDING: ("tei.v1.Embed",),
    Kind.CLASSIFIER: ("tei.v1.Predict",),
    Kind.RERANKER: ("tei.v1.Predict", "tei.v1.Rerank"),
}
_OF_MODELS = ("tei.v1.Embed", "tei.v1.Predict", "tei.v1.Rerank")

# Between two tries to bring a failed model back; it costs one token each.
RETRY_SECONDS = 1.0


class Health:
    """The health of one model.

    Args:
        kind: What the model is for; services that it does not have are never SERVING.
        probe: Runs one small batch, or raises.

    Ownership:
        `close` ends all watches and the probing.
    """

    def __init__(self, kind: Kind, probe: Callable[[], Awaitable[object]]) -> None:
        self._probe = probe
        self._services = _OF_KIND[kind]
        self._states = dict.fromkeys((*_ALWAYS, *_OF_MODELS), _NOT_SERVING)
        self._states.update(dict.fromkeys((*_ALWAYS, *self._services), _SERVING))
        self._changed = asyncio.Condition()
        self._closing = False
        self._recovery: asyncio.Task[None] | None = None

    def batch_failed(self) -> None:
        """Say that the model fails, and try it until it does not; one try at a time."""
        if not self._closing and (self._recovery is None or self._recovery.done()):
            self._recovery = asyncio.create_task(self._recover())

    async def _recover(self) -> None:
        await self._set(_NOT_SERVING)
        while True:
            try:
                await self._probe()
            except Exception as error:  # whatever it is, the model does not work
                _log.warning("The model fails: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                await self._set(_SERVING)
                return

    async def _set(self, state: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        async with self._changed:
            self._states.update(dict.fromkeys(self._services, state))
            self._changed.notify_all()

    async def close(self) -> None:
        """Say that nothing is served any more and end the watches."""
        if self._recovery is not None:
            self._recovery.cancel()
        async with self._changed:
            self._states = dict.fromkeys(self._states, _NOT_SERVING)
            self._closing = True
            self._changed.notify_all()

    async def check(self, request: health_pb2.HealthCheckRequest) -> Running:
        """Answer with the state of one service."""
        return Running.done(health_pb2.HealthCheckResponse(status=self._state(request.service)))

    async def list(self, _request: health_pb2.HealthListRequest) -> Running:
        """Answer with the states of all services."""
        statuses = {
            name: health_pb2.HealthCheckResponse(status=state)
            for name, state in self._states.items()
        }
        return Running.done(health_pb2.HealthListResponse(statuses=statuses))

    async def watch(self, data: bytes, context: Context) -> None:
        """Send the state of one service, and again when it changes."""
        try:
            service = parse(health_pb2.HealthCheckRequest, data).service
            await self._send_changes(service, context)
        except StatusError as error:
            await abort(context, error)

    async def _send_changes(self, service: str, context: Context) -> None:
        sent: int | None = None
        while (state := self._state(service)) != sent:
            await context.write(health_pb2.HealthCheckResponse(status=state).SerializeToString())
            sent = state
            async with self._changed:
                await self._changed.wait_for(partial(self._has_news, service, sent))

    def _has_news(self, service: str, sent: int) -> bool:
        return self._closing or self._states[service] != sent

    def _state(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service not in self._states:
            raise StatusError(Code.NOT_FOUND, "service not registered")
        return self._states[service]

    def handlers(self) -> grpc.GenericRpcHandler[object, object]:
        """Return the methods of the service."""
        calls = Calls()
        methods: dict[str, Handler] = {
            "Check": calls.unary(health_pb2.HealthCheckRequest, self.check),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
            "List": calls.unary(health_pb2.HealthListRequest, self.list),
        }
        return grpc.method_handlers_generic_handler("grpc.health.v1.Health", methods)
