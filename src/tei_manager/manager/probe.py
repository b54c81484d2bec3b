"""Is an instance ready, and is it still alive: asked over gRPC, on a channel of its own.

Ready: Info answers with the model that was asked for, ``grpc.health.v1`` says SERVING for the
service that fits its kind, and one real call of that service is answered. The log line "Ready" of
the router comes before its port is open (landmine L16), and the health of ``""`` says nothing
about the model. The call is made whatever the health says: the router's is only a note about its
last batch, which never mends itself without another one (L6).

Alive: Info answers with any status but UNAVAILABLE or a time-out. A router that refuses calls
because it is full is a healthy one, which goes for the real call as well.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.manager.trial import HEALTH_SERVICES, Trial

# A batch of 16,384 tokens on a CPU takes seconds, and Info waits behind none of it; 5 s is what
# the reference allows, too.
TIMEOUT = 5.0

SPEAKS_HTTP = "this text-embeddings-router speaks HTTP; install the gRPC build"

_DEAD = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a probe found.

    Args:
        good: The instance is what was asked for.
        detail: Why not.
        hopeless: It will never be good; ask no more.
        other: Another model answers, so that calls must not go there.
    """

    good: bool
    detail: str = ""
    hopeless: bool = False
    other: bool = False


class Probe:
    """A channel to one instance.

    Args:
        host: Its address.
        port: Its port.
        api_key: Sent as bearer token if not empty.

    Ownership:
        `close` must be awaited.
    """

    def __init__(self, host: str, port: int, api_key: str = "") -> None:
        self._host, self._port = host, port
        target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        # While a model is loading the port refuses connections: ask again soon. Channels to equal
        # addresses must not share a connection, or one instance would see another's.
        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.aio.insecure_channel(target, options)
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._trial = Trial(self._channel, self._metadata)
        self._check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        self._info = self._channel.unary_unary(
            "/tei.v1.Info/Info",
            request_serializer=tei_pb2.InfoRequest.SerializeToString,
            response_deserializer=tei_pb2.InfoResponse.FromString,
        )

    async def close(self) -> None:
        """Close the channel; a probe under way ends with an error."""
        await self._channel.close(None)

    async def ready(self, model_id: str) -> Answer:
        """Return whether the instance serves the model."""
        try:
            info = await self._info(tei_pb2.InfoRequest(), timeout=TIMEOUT, metadata=self._metadata)
            if not (answer := self._serves_model(info.model_id, model_id)).good:
                return answer
            serving = await self._serves(HEALTH_SERVICES.get(info.model_type, ""))
            trial = await self._trial.run(info.model_type, TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE and await self._speaks_http():
                return Answer(False, SPEAKS_HTTP, hopeless=True)
            return Answer(False, _words(error))
        if not serving:
            return Answer(False, "its health service does not say SERVING yet")
        return Answer(not trial, trial)

    async def _serves(self, service: str) -> bool:
        """Ask the health service; one that does not exist or know the name does not object."""
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await self._check(request, timeout=TIMEOUT, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                return True
            raise
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def alive(self, model_id: str) -> Answer:
        """Return whether anything but UNAVAILABLE, a time-out or another model comes back."""
        try:
            info = await self._info(tei_pb2.InfoRequest(), timeout=TIMEOUT, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            return Answer(error.code() not in _DEAD, _words(error))
        return self._serves_model(info.model_id, model_id)

    def _serves_model(self, found: str, wanted: str) -> Answer:
        if found == wanted:
            return Answer(True)
        return Answer(False, f"port {self._port} is answered by model '{found}'", other=True)

    async def _speaks_http(self) -> bool:
        """Return whether the port answers HTTP/1, which gRPC reports as UNAVAILABLE."""
        writer = None
        try:
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
                return await reader.readexactly(7) == b"HTTP/1."
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            return False
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()


def _words(error: grpc.aio.AioRpcError) -> str:
    return f"{error.code().name}: {error.details() or 'no details'}"
