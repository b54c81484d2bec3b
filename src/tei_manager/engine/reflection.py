"""``grpc.reflection``, v1 and v1alpha, for every service that the engine has.

The library serves v1alpha. v1 is the same protocol under another name, so its handler is the same
and its descriptor is the old one with the name changed. Our stubs live in a descriptor pool of
their own; all files that a client may ask for are gathered in another.
"""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pb2, text_format
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from tei_manager.grpc.proto.tei.v1 import tei_pb2

_VERSIONS = ("v1", "v1alpha")


def reflection_handlers() -> list[grpc.GenericRpcHandler[object, object]]:
    """Return the reflection service in both versions."""
    names = [f"tei.v1.{name}" for name in tei_pb2.DESCRIPTOR.services_by_name]
    names.append("grpc.health.v1.Health")
    names.extend(map(_service, _VERSIONS))
    # The library's asyncio half is missing from its type stubs.
    servicer = reflection.aio.ReflectionServicer(names, pool=_pool())  # type: ignore[attr-defined]
    handler: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        reflection_pb2.ServerReflectionRequest.FromString,
        reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    methods = {"ServerReflectionInfo": handler}
    return [
        grpc.method_handlers_generic_handler(_service(version), methods) for version in _VERSIONS
    ]


def _service(version: str) -> str:
    return f"grpc.reflection.{version}.ServerReflection"


def _pool() -> DescriptorPool:
    """Return a pool with the descriptors of all services."""
    pool = DescriptorPool()
    for file in (tei_pb2.DESCRIPTOR, health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        pool.AddSerializedFile(file.serialized_pb)
    pool.AddSerializedFile(_version_1().SerializeToString())
    return pool


def _version_1() -> descriptor_pb2.FileDescriptorProto:
    """Return the descriptor of v1: that of v1alpha with the name changed throughout."""
    alpha = descriptor_pb2.FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
    renamed = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    return text_format.Parse(renamed, descriptor_pb2.FileDescriptorProto())
