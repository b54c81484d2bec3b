"""Reflection, as a client sees it that knows nothing but the port."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import descriptor_pool
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from http2_peer import connect
from multiplexer import framed, multiplexer, multiplexer_process

from tei_manager.grpc.methods import METHODS, MULTIPLEXER, Kind
from tei_manager.mux.health import SERVICE_NAMES
from tei_manager.mux.reflection import MAX_MESSAGES

pytestmark = pytest.mark.asyncio

V1 = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
Request = reflection_pb2.ServerReflectionRequest


async def test_every_service_and_method_can_be_found_without_a_proto_file() -> None:
    def explore(address: str) -> dict[str, dict[str, tuple[bool, bool]]]:
        with grpc.insecure_channel(address) as channel:
            database: Any = ProtoReflectionDescriptorDatabase(channel)
            pool = descriptor_pool.DescriptorPool(database)
            found: dict[str, dict[str, tuple[bool, bool]]] = {}
            for name in database.get_services():
                methods = pool.FindServiceByName(name).methods
                found[name] = {m.name: (m.client_streaming, m.server_streaming) for m in methods}
            return found

    async with multiplexer_process() as mux:
        services = await asyncio.to_thread(explore, mux.address)
    assert set(services) == set(SERVICE_NAMES)
    assert services["grpc.reflection.v1.ServerReflection"] == {"ServerReflectionInfo": (True, True)}
    kinds = {Kind.UNARY: (False, False), Kind.CLIENT_STREAM: (True, False), Kind.BIDI: (True, True)}
    assert services[MULTIPLEXER] == {m.name: kinds[m.kind] for m in METHODS.values()}


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_both_versions_answer_alike(version: str) -> None:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    questions = [
        Request(list_services=""),
        Request(file_containing_symbol=f"{MULTIPLEXER}.Embed"),
        Request(file_containing_symbol="tei.v1.EmbedRequest"),
        Request(file_by_filename="tei/v1/tei.proto"),
        Request(file_containing_symbol="grpc.health.v1.Health"),
        Request(file_containing_symbol="no.such.Thing"),
        Request(file_containing_symbol=f"{MULTIPLEXER}.NoSuchMethod"),
        Request(file_containing_symbol="tei.v1.EmbedRequest.no_such_field"),
        Request(file_by_filename="no/such.proto"),
        Request(all_extension_numbers_of_type="tei.v1.EmbedRequest"),
        Request(),
    ]
    async with multiplexer() as mux:
        call = mux.channel().stream_stream(
            path,
            request_serializer=Request.SerializeToString,
            response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
        )(iter(questions))
        answers = [answer async for answer in call]
        assert [answer.original_request for answer in answers] == questions
        kinds = [answer.WhichOneof("message_response") for answer in answers]
        assert kinds == [
            "list_services_response",
            *["file_descriptor_response"] * 4,
            *["error_response"] * 6,
        ]
        assert {answer.error_response.error_code for answer in answers[5:]} == {5}
        assert await call.code() is grpc.StatusCode.OK
        await mux.settled()


async def test_what_this_process_merely_has_loaded_is_not_shown() -> None:
    async with multiplexer() as mux:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(mux.channel())
        call = stub.ServerReflectionInfo(
            iter([Request(file_containing_symbol="google.protobuf.Any")])
        )
        async for answer in call:
            assert answer.error_response.error_code == 5


async def test_garbage_and_too_many_questions_end_the_call_with_a_status() -> None:
    async with multiplexer() as mux, connect(mux.port) as client:
        call = client.request(V1, data=framed(b"\xff\xff"), end=True)
        await client.flush()
        assert (await client.status(call))[0] == 3
        call = client.request(V1, data=framed(b"") * (MAX_MESSAGES + 1))
        await client.flush()
        assert (await client.status(call))[0] == 8
        await mux.settled()
