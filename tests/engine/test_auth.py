from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tei_manager.grpc.proto.tei.v1 import tei_pb2, tei_pb2_grpc


def test_only_the_exact_key_opens_the_models_services(
    make_model: Callable[..., Any], start_engine: Callable[..., Any]
) -> None:
    directory, _, _ = make_model()
    with grpc.insecure_channel(start_engine(directory, API_KEY="sesame").address) as channel:
        stub: Any = tei_pb2_grpc.EmbedStub(channel)
        request = tei_pb2.EmbedRequest(inputs="a")
        for metadata in ((), (("authorization", "sesame"),), (("authorization", "Bearer sesam"),)):
            for call in (
                lambda sent: stub.Embed(request, metadata=sent),
                lambda sent: list(stub.EmbedStream(iter([request]), metadata=sent)),
                lambda sent: channel.unary_unary("/tei.v1.Embed/None", None, None)(
                    b"", metadata=sent
                ),
            ):
                with pytest.raises(grpc.RpcError) as refusal:
                    call(metadata)
                error: Any = refusal.value
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED
                assert error.details() == "No valid auth token"
        right = (("authorization", "Bearer sesame"),)
        assert stub.Embed(request, metadata=right).embeddings
        assert list(stub.EmbedStream(iter([request]), metadata=right))
        health: Any = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status
