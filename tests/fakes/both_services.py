"""A gRPC server that is an instance and a multiplexer at once, for what calls both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

NAME = "minilm"
_VECTOR = tei_pb2.EmbedResponse(embeddings=[0.6, 0.8])


class BothServices:
    """Counts messages by way and method, keeps tokens, and knows the one instance `NAME`."""

    def __init__(self) -> None:
        self.port = self.tls_port = 0
        self.seen: Counter[str] = Counter()
        self.authorizations: list[str] = []
        self.empty = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answer(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer a request of either service."""
        through = hasattr(request, "target")
        if through and request.target.instance_name != NAME:
            context.abort(grpc.StatusCode.NOT_FOUND, "Instance 'xxx' not found")
        sent = dict(context.invocation_metadata()).get("authorization")
        self.authorizations += [str(sent)] if sent else []
        self.seen[f"{'through' if through else 'direct'} {method}"] += 1
        return tei_pb2.EmbedResponse() if self.empty else _VECTOR


class _Methods:
    """The two methods, which both services have."""

    def __init__(self, services: BothServices) -> None:
        self._services = services

    def Embed(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        return self._services.answer("Embed", request, context)

    def EmbedStream(  # noqa: N802
        self, request_iterator: Iterable[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        for request in request_iterator:
            yield self._services.answer("EmbedStream", request, context)


class _Instance(_Methods, tei_pb2_grpc.EmbedServicer): ...


class _Multiplexer(_Methods, mux_grpc.TeiMultiplexerServicer): ...


@contextmanager
def both_services(
    credentials: grpc.ServerCredentials | None = None, unix: Path | None = None
) -> Iterator[BothServices]:
    """The server, on a port of its own, on one with TLS and on a Unix socket if asked for."""
    services = BothServices()
    with ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        tei_pb2_grpc.add_EmbedServicer_to_server(_Instance(services), server)
        mux_grpc.add_TeiMultiplexerServicer_to_server(_Multiplexer(services), server)
        services.port = server.add_insecure_port("127.0.0.1:0")
        if credentials:
            services.tls_port = server.add_secure_port("localhost:0", credentials)
        if unix:
            server.add_insecure_port(f"unix:{unix}")
        server.start()
        yield services
        server.stop(None).wait(10)
