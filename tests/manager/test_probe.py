"""What counts as ready, and what as alive, asked of small real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2

from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.manager import probe as module
from tei_manager.manager.probe import SPEAKS_HTTP, Probe

pytestmark = pytest.mark.asyncio

SERVING = health_pb2.HealthCheckResponse.SERVING
HANGS = "does not answer"
Code = grpc.StatusCode


class Server(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic when it runs
    """Answers Info and Check; a status in place of an answer ends the call with it."""

    def __init__(self, info: Code | str, serving: Code | str) -> None:
        self.info, self.serving = info, serving
        self.metadata: dict[str, str] = {}

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        self.metadata = {key: str(value) for key, value in details.invocation_metadata or ()}
        method = self._info if details.method.endswith("/Info") else self._check
        return grpc.unary_unary_rpc_method_handler(method)

    async def _info(self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if self.info == HANGS:
            await asyncio.Event().wait()
        if isinstance(self.info, Code):
            await context.abort(self.info, "as told")
        return bytes(tei_pb2.InfoResponse(model_id=str(self.info)).SerializeToString())

    async def _check(
        self, request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> bytes:
        if isinstance(self.serving, Code):
            await context.abort(self.serving, "as told")
        service = health_pb2.HealthCheckRequest.FromString(request).service
        status = SERVING if service == self.serving else 2
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())


@asynccontextmanager
async def probing(info: Code | str, serving: Code | str) -> AsyncIterator[tuple[Probe, Server]]:
    handler = Server(info, serving)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    probe = Probe("127.0.0.1", port, "secret")
    try:
        yield probe, handler
    finally:
        await probe.close()
        await server.stop(None)


@pytest.mark.parametrize("service", ["tei.v1.Embed", "tei.v1.Predict"])
async def test_model_of_either_kind_is_ready_when_its_service_is_serving(service: str) -> None:
    async with probing("m", service) as (probe, server):
        assert (await probe.ready("m")).good
        assert server.metadata["authorization"] == "Bearer secret"


@pytest.mark.parametrize("serving", ["", "tei.v1.Info", Code.NOT_FOUND])
async def test_health_that_says_nothing_about_a_model_is_not_ready(serving: str | Code) -> None:
    async with probing("m", serving) as (probe, _):
        answer = await probe.ready("m")
        assert (answer.good, answer.hopeless) == (False, False)
        assert "SERVING" in answer.detail


async def test_server_without_a_health_service_is_ready_when_info_answers() -> None:
    async with probing("m", Code.UNIMPLEMENTED) as (probe, _):
        assert (await probe.ready("m")).good


async def test_another_model_on_the_port_is_not_ready() -> None:
    async with probing("other", "tei.v1.Embed") as (probe, _):
        answer = await probe.ready("m")
        assert not answer.good
        assert "'other'" in answer.detail


@pytest.mark.parametrize(
    ("status", "alive"),
    [
        (Code.RESOURCE_EXHAUSTED, True),
        (Code.INTERNAL, True),
        (Code.UNAUTHENTICATED, True),
        (Code.UNAVAILABLE, False),
        (Code.DEADLINE_EXCEEDED, False),
    ],
)
async def test_any_status_but_unavailable_and_time_out_is_a_sign_of_life(
    status: Code, alive: bool
) -> None:
    async with probing(status, "tei.v1.Embed") as (probe, _):
        assert (await probe.alive()).good is alive


async def test_server_that_does_not_answer_in_time_is_not_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    async with probing(HANGS, "tei.v1.Embed") as (probe, _):
        answer = await probe.alive()
    assert not answer.good
    assert "DEADLINE_EXCEEDED" in answer.detail


async def test_server_of_http_1_is_hopeless() -> None:
    async def answer_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer_http, "127.0.0.1", 0) as server:
        probe = Probe("127.0.0.1", server.sockets[0].getsockname()[1])
        answer = await probe.ready("m")
        await probe.close()
    assert (answer.good, answer.detail, answer.hopeless) == (False, SPEAKS_HTTP, True)
