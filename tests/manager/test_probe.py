"""What counts as ready, and what as alive, asked of small real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
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
Context = grpc.aio.ServicerContext[bytes, bytes]
EMBEDDING, CLASSIFIER, RERANKER = (
    tei_pb2.MODEL_TYPE_EMBEDDING, tei_pb2.MODEL_TYPE_CLASSIFIER, tei_pb2.MODEL_TYPE_RERANKER,
)  # fmt: skip


class Server(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # not generic when it runs
    """Answers Info and Check; a status in place of an answer ends the call with it.

    Real calls are noted and end with the status in ``calls``, or with an empty answer.
    """

    def __init__(self, info: Code | str, serving: Code | str, kind: int) -> None:
        self.info, self.serving, self.kind = info, serving, kind
        self.metadata: dict[str, str] = {}
        self.calls: dict[str, Code] = {}
        self.called: list[str] = []

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        self.metadata = {key: str(value) for key, value in details.invocation_metadata or ()}
        methods = {"Info": self._info, "Check": self._check}
        name = details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(methods.get(name, self._real(name)))

    def _real(self, name: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def answer(request: bytes, context: Context) -> bytes:
            self.called.append(name)
            if (code := self.calls.get(name)) is not None:
                await context.abort(code, "Backend error: as told")
            return b""

        return answer

    async def _info(self, request: bytes, context: Context) -> bytes:
        if self.info == HANGS:
            await asyncio.Event().wait()
        if isinstance(self.info, Code):
            await context.abort(self.info, "as told")
        answer = tei_pb2.InfoResponse(model_id=str(self.info))
        answer.model_type = self.kind  # type: ignore[assignment]  # a number is what is sent
        return bytes(answer.SerializeToString())

    async def _check(self, request: bytes, context: Context) -> bytes:
        if isinstance(self.serving, Code):
            await context.abort(self.serving, "as told")
        service = health_pb2.HealthCheckRequest.FromString(request).service
        status = SERVING if service == self.serving else 2
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())


@asynccontextmanager
async def probing(
    info: Code | str, serving: Code | str, kind: int = EMBEDDING
) -> AsyncIterator[tuple[Probe, Server]]:
    handler = Server(info, serving, kind)
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


@pytest.mark.parametrize(
    ("kind", "service", "call"),
    [
        (EMBEDDING, "tei.v1.Embed", "Embed"),
        (CLASSIFIER, "tei.v1.Predict", "Predict"),
        (RERANKER, "tei.v1.Rerank", "Rerank"),
    ],
)
async def test_model_is_ready_when_the_service_of_its_kind_serves_and_answers_a_call(
    kind: int, service: str, call: str
) -> None:
    async with probing("m", service, kind) as (probe, server):
        assert (await probe.ready("m")).good
        assert server.called == [call]
        assert server.metadata["authorization"] == "Bearer secret"
    async with probing("m", "tei.v1.Other", kind) as (probe, server):
        assert not (await probe.ready("m")).good
        assert server.called == [call], "only a call can mend the router's health"


async def test_server_whose_real_calls_fail_is_not_ready_whatever_its_health_says() -> None:
    async with probing("m", "tei.v1.Predict", CLASSIFIER) as (probe, server):
        server.calls = {"Predict": Code.FAILED_PRECONDITION}
        answer = await probe.ready("m")
        assert (answer.good, answer.hopeless) == (False, False)
        assert answer.detail == "Predict answers FAILED_PRECONDITION: Backend error: as told"


async def test_embedding_model_that_is_sparse_is_ready() -> None:
    async with probing("m", "tei.v1.Embed") as (probe, server):
        server.calls = {"Embed": Code.FAILED_PRECONDITION}
        assert (await probe.ready("m")).good
        assert server.called == ["Embed", "EmbedSparse"]


async def test_server_that_is_full_is_ready() -> None:
    async with probing("m", "tei.v1.Embed") as (probe, server):
        server.calls = {"Embed": Code.RESOURCE_EXHAUSTED}
        assert (await probe.ready("m")).good


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
        assert (await probe.alive("org/model")).good is alive


async def test_server_of_another_model_is_told_apart_while_it_serves() -> None:
    async with probing("other", "tei.v1.Embed") as (probe, _):
        answer = await probe.alive("org/model")
    assert (answer.good, answer.other) == (False, True)
    assert "'other'" in answer.detail


async def test_server_that_does_not_answer_in_time_is_not_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.1)
    async with probing(HANGS, "tei.v1.Embed") as (probe, _):
        answer = await probe.alive("org/model")
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
