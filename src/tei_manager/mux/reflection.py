"""Server reflection, v1 and v1alpha, which are the same on the wire.

Ours is never forwarded: TEI's own can end its process (tei-behaviour.md, L5).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, text_format
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2
from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.health import SERVICE_NAMES

if TYPE_CHECKING:
    from tei_manager.mux.local import LocalCall

MAX_MESSAGES = 1000
"""Questions that one call may ask; grpcurl and grpcui ask a few dozen."""


def _reflection_v1() -> Any:
    """Return the file of ``grpc.reflection.v1``: that of v1alpha, which is all that is shipped.

    The two differ in their names alone.
    """
    proto = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(proto)
    text = text_format.MessageToString(proto).replace("v1alpha", "v1")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(text_format.Parse(text, descriptor_pb2.FileDescriptorProto()))
    return pool.FindFileByName(proto.name.replace("v1alpha", "v1"))


# Ours live in a pool of their own; health and reflection live in protobuf's common one.
_REFLECTION_V1 = _reflection_v1()
_POOLS = (
    tei_multiplexer_pb2.DESCRIPTOR.pool,
    descriptor_pool.Default(),
    _REFLECTION_V1.pool,
)
_PUBLIC = {
    file.name
    for file in (
        tei_multiplexer_pb2.DESCRIPTOR,
        *tei_multiplexer_pb2.DESCRIPTOR.dependencies,
        health_pb2.DESCRIPTOR,
        reflection_pb2.DESCRIPTOR,
        _REFLECTION_V1,
    )
}


class ServerReflection:
    """One call of ServerReflectionInfo."""

    def __init__(self, call: LocalCall) -> None:
        self._call = call
        self._asked = 0

    def on_message(self, message: bytes) -> None:
        """Answer one question; what is not known is said in the answer, and the call goes on."""
        self._asked += 1
        if self._asked > MAX_MESSAGES:
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"more than {MAX_MESSAGES} questions")
        try:
            request = reflection_pb2.ServerReflectionRequest.FromString(message)
        except Exception as error:  # protobuf's DecodeError is not public in every version
            raise StatusError(Code.INVALID_ARGUMENT, f"malformed request: {error}") from None
        response = _answer(request)
        response.valid_host = request.host
        response.original_request.CopyFrom(request)
        self._call.send(response.SerializeToString())

    def on_half_close(self) -> None:
        """End the call: everything was answered."""
        self._call.finish(Code.OK)

    def on_cancel(self) -> None:
        """Nothing is held."""


def _answer(request: Any) -> Any:
    kind = request.WhichOneof("message_request")
    response = reflection_pb2.ServerReflectionResponse()
    if kind == "list_services":
        response.list_services_response.CopyFrom(_services())
        return response
    try:
        files = _files(kind, request)
    except KeyError:
        response.error_response.error_code = Code.NOT_FOUND
        response.error_response.error_message = f"{kind or 'an empty question'}: not found"
        return response
    response.file_descriptor_response.file_descriptor_proto.extend(files)
    return response


@cache
def _services() -> Any:
    """Return the answer's part that lists all services."""
    names = sorted(SERVICE_NAMES)
    return reflection_pb2.ListServiceResponse(
        service=[reflection_pb2.ServiceResponse(name=name) for name in names]
    )


def _files(kind: str | None, request: Any) -> Sequence[bytes]:
    """Return a file and all that it imports, encoded; `KeyError` if nothing is known."""
    if kind == "file_by_filename":
        return _with_imports(_find("FindFileByName", request.file_by_filename))
    if kind == "file_containing_symbol":
        return _with_imports(_find_symbol(request.file_containing_symbol))
    raise KeyError(kind)  # proto3 without extensions: nothing else can be known


def _find_symbol(symbol: str) -> Any:
    try:
        return _find("FindFileContainingSymbol", symbol)
    except KeyError:  # protobuf does not count the methods of a service among the symbols
        service, _, method = symbol.rpartition(".")
        file = _find("FindFileContainingSymbol", service)
        if method in file.services_by_name[service.rpartition(".")[2]].methods_by_name:
            return file
        raise


def _find(method: str, key: str) -> Any:
    for pool in _POOLS:
        try:
            file = getattr(pool, method)(key)
        except KeyError:
            continue
        if file.name in _PUBLIC:
            return file
    raise KeyError(key)


@cache
def _with_imports(file: Any) -> Sequence[bytes]:
    """Return a public file and all that it imports, encoded: once, as a client may ask often."""
    seen: dict[str, bytes] = {}
    rest = [file]
    while rest:
        file = rest.pop()
        if file.name not in seen:
            proto = descriptor_pb2.FileDescriptorProto()
            file.CopyToProto(proto)
            seen[file.name] = proto.SerializeToString()
            rest.extend(file.dependencies)
    return tuple(seen.values())
