from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2

SERVICES = {
    *(f"tei.v1.{name}" for name in ("Info", "Embed", "Predict", "Rerank", "Tokenize")),
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
}


def _ask(channel: grpc.Channel, version: str, **question: str) -> Any:
    call = channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(**question)]))
    return answer


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_every_service_is_listed_and_can_be_described(version: str, channel: grpc.Channel) -> None:
    listed = _ask(channel, version, list_services="")
    assert {service.name for service in listed.list_services_response.service} == SERVICES
    for name in SERVICES:
        answer = _ask(channel, version, file_containing_symbol=name)
        (file,) = answer.file_descriptor_response.file_descriptor_proto
        parsed = descriptor_pb2.FileDescriptorProto.FromString(file)
        assert name in {f"{parsed.package}.{service.name}" for service in parsed.service}


def test_an_unknown_symbol_is_answered_in_the_stream(channel: grpc.Channel) -> None:
    answer = _ask(channel, "v1", file_containing_symbol="no.such.Symbol")
    assert answer.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]
