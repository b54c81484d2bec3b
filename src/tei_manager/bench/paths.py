"""The ways to one instance that are compared: a warm connection each, and the calls of a case.

Clients are those of gRPC's own library, so what it costs is in every way alike. A way to the
instance itself speaks `tei.v1`, as does one through a proxy that passes calls on as they are; a way
through a multiplexer wraps each request in a target.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import grpc

from tei_manager.bench.cases import Case
from tei_manager.errors import TeiManagerError
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc

TIMEOUT_SECONDS = 60.0
"""How long any call may take."""

_OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)]


class BenchmarkFailed(TeiManagerError):
    """A call of a measurement failed: there are no figures."""


class Path:
    """A way to an instance, on a connection of its own.

    Args:
        name: What it is called in results.
        address: ``HOST:PORT`` that is called, or ``unix:PATH``.
        instance: Name that a multiplexer there routes by; None where there is no multiplexer.
        credentials: For TLS; None for a plain connection.
        token: Sent with each call, where a multiplexer asks for one.

    Ownership:
        `close`, or leaving it as a context, ends the connection.
    """

    def __init__(
        self,
        name: str,
        address: str,
        instance: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        self.name, self._address, self._instance = name, address, instance
        self._options: dict[str, Any] = {"timeout": TIMEOUT_SECONDS}
        if token:
            self._options["metadata"] = (("authorization", f"Bearer {token}"),)
        self._channel = (
            grpc.secure_channel(address, credentials, _OPTIONS)
            if credentials
            else grpc.insecure_channel(address, _OPTIONS)
        )
        stub: Any = (mux_grpc.TeiMultiplexerStub if instance else tei_pb2_grpc.EmbedStub)(
            self._channel
        )
        self._embed, self._embed_stream = stub.Embed, stub.EmbedStream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def prepare(self, case: Case) -> Callable[[], float]:
        """Return what makes a case's calls once, and says how long they took, in µs.

        What is returned raises:
            BenchmarkFailed: A call failed, or an answer was missing or empty.
        """
        requests = [self._request(text) for text in case.texts]
        calls = {"unary": self._unary, "concurrent": self._concurrent, "stream": self._stream}
        call = calls[case.kind]

        def run() -> float:
            begun = time.perf_counter_ns()
            try:
                answers = call(requests)
            except grpc.RpcError as error:
                raise BenchmarkFailed(self._why(error)) from None
            took = (time.perf_counter_ns() - begun) / 1e3
            self._check(answers, len(requests))
            return took

        return run

    def _request(self, text: str) -> Any:
        inner = tei_pb2.EmbedRequest(inputs=text, truncate=True, normalize=True)
        if not self._instance:
            return inner
        target = mux_pb2.Target(instance_name=self._instance)
        return mux_pb2.EmbedRequest(target=target, request=inner)

    def _unary(self, requests: list[Any]) -> list[Any]:
        return [self._embed(requests[0], **self._options)]

    def _concurrent(self, requests: list[Any]) -> list[Any]:
        futures = [self._embed.future(request, **self._options) for request in requests]
        return [future.result() for future in futures]

    def _stream(self, requests: list[Any]) -> list[Any]:
        return list(self._embed_stream(iter(requests), **self._options))

    def _why(self, error: Any) -> str:
        status = f"{error.details()} ({error.code().name})"
        return f"a call to {self._address} ({self.name}) failed: {status}"

    def _check(self, answers: list[Any], expected: int) -> None:
        whole = sum(len(answer.embeddings) > 0 for answer in answers)
        if whole != expected:
            raise BenchmarkFailed(
                f"{self._address} ({self.name}) gave {whole} embeddings for {expected} texts"
            )
