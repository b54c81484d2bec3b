"""The client: a channel that is kept, and the calls that most scripts make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

import grpc

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2_grpc as mux_grpc
from tei_manager.grpc.proto.tei.v1 import tei_pb2

OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", 64 << 20),
]
"""What docs/clients.md recommends for a channel."""


class Client:
    """A connection to a multiplexer, made at the first call and kept until `close`.

    Args:
        address: ``HOST:PORT`` of the multiplexer, or ``unix:PATH`` of its Unix socket.
        timeout: Seconds that a call may take, or a stream as a whole.
        credentials: For TLS, from `grpc.ssl_channel_credentials`; ``None`` for none.
        token: Sent with each call, where ``[grpc] token_file`` asks for one; empty for none.

    Raises:
        grpc.RpcError: From every method: the call's status, as docs/clients.md explains them.
    """

    def __init__(
        self,
        address: str = "127.0.0.1:9001",
        timeout: float = 30.0,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
    ) -> None:
        self._timeout, self._metadata = timeout, _authorization(token)
        if credentials is None:
            self._channel = grpc.insecure_channel(address, OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, credentials, OPTIONS)
        self._stub = mux_grpc.TeiMultiplexerStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def embed(self, instance: str, text: str, normalize: bool = True) -> list[float]:
        """Return the embedding of one text, cut to what the model takes."""
        request = _request(instance, text, normalize)
        return list(
            self._stub.Embed(request, timeout=self._timeout, metadata=self._metadata).embeddings
        )

    def embed_many(
        self, instance: str, texts: Iterable[str], normalize: bool = True
    ) -> Iterator[list[float]]:
        """Yield the embedding of each text, in order, over one stream."""
        requests = (_request(instance, text, normalize) for text in texts)
        for answer in self._stub.EmbedStream(
            requests, timeout=self._timeout, metadata=self._metadata
        ):
            yield list(answer.embeddings)

    def close(self) -> None:
        """End the connection, and every call on it."""
        self._channel.close()


def _authorization(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()


def _request(instance: str, text: str, normalize: bool) -> mux_pb2.EmbedRequest:
    return mux_pb2.EmbedRequest(
        target=mux_pb2.Target(instance_name=instance),
        request=tei_pb2.EmbedRequest(inputs=text, truncate=True, normalize=normalize),
    )
