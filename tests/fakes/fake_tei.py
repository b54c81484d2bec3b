"""A TEI server in this process: every ``tei.v1`` method, answers that follow from the question.

What it should do beyond answering stands in the text of a request, so that a caller of any kind can
ask for it: ``sleep 0.5``, ``hang``, ``hold`` (until the test sets ``release``), ``fail 8 message``,
``flood N SIZE``. Every call is put down with its metadata, its deadline and its end.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from tei_manager.grpc.proto.tei.v1 import tei_pb2

Context = Any  # grpc.aio's, which is generic in its stubs only

UNARY = frozenset(
    (
        *("Info", "Embed", "EmbedSparse", "EmbedAll", "Predict", "PredictPair", "Rerank"),
        *("Tokenize", "Decode"),
    )
)
OPTIONS = (
    # What design.md 7 asks of an instance on C-core: to tolerate the pings behind resets.
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
)
HEADERS = (
    ("x-compute-type", "gpu+optimized"),
    ("x-compute-time", "12"),
    ("x-compute-characters", "11"),
    ("x-compute-tokens", "4"),
    ("x-total-time", "12"),
    ("x-tokenization-time", "1"),
    ("x-queue-time", "2"),
    ("x-inference-time", "9"),
)
"""TEI's eight (tei-behaviour.md 2.3)."""


@dataclass
class Call:
    """One call as the instance saw it."""

    method: str
    metadata: list[tuple[str, str | bytes]]
    time_remaining: float | None
    messages: list[bytes] = field(default_factory=list)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: bool = False

    def values(self, key: str) -> list[str | bytes]:
        """All values of one key, in order."""
        return [value for name, value in self.metadata if name == key]

    async def ended(self, limit: float = 5) -> Call:
        """Wait until the instance is done with the call."""
        async with asyncio.timeout(limit):
            await self.over.wait()
        return self


class FakeTei(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in its stubs only
    """The server. ``seed`` marks its answers, so that a test sees who gave them."""

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed
        self.port = 0
        self.calls: list[Call] = []
        self.arrived: asyncio.Queue[Call] = asyncio.Queue()
        self.release = asyncio.Event()
        self.initial: Iterable[tuple[str, str | bytes]] = HEADERS
        self.trailing: Iterable[tuple[str, str | bytes]] = ()
        self._server: grpc.aio.Server | None = None

    async def start(self, port: int = 0, *options: tuple[str, int], further: int = 0) -> list[int]:
        """Listen on loopback, on so many further ports as well; return those."""
        self._server = grpc.aio.server(options=(*OPTIONS, *options))
        self._server.add_generic_rpc_handlers((self,))
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        ports = [self._server.add_insecure_port("127.0.0.1:0") for _ in range(further)]
        await self._server.start()
        return ports

    async def stop(self, grace: float | None = None) -> None:
        """Stop listening; calls under way get ``grace`` seconds."""
        if self._server is not None:
            await self._server.stop(grace)

    async def call(self, limit: float = 5) -> Call:
        """Wait for the next call that nobody has waited for."""
        async with asyncio.timeout(limit):
            return await self.arrived.get()

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        """Serve any method of ``tei.v1``."""
        path: str = details.method
        if not path.startswith("/tei.v1."):
            return None
        method = path.rpartition("/")[2]

        async def serve(messages: Any, context: Context) -> Any:
            call = self._arrive(path, details, context)
            try:
                async for answer in self._answers(method, call, messages, context):
                    yield answer
            except asyncio.CancelledError:
                call.cancelled = True
                raise
            finally:
                call.over.set()

        return grpc.stream_stream_rpc_method_handler(serve)

    def _arrive(self, path: str, details: Any, context: Context) -> Call:
        metadata = [(name, value) for name, value in details.invocation_metadata]
        call = Call(path, metadata, context.time_remaining())
        self.calls.append(call)
        self.arrived.put_nowait(call)
        return call

    async def _answers(
        self, method: str, call: Call, messages: Any, context: Context
    ) -> AsyncIterator[bytes]:
        if method not in UNARY:
            await context.send_initial_metadata(())  # TEI's streams begin before they answer
        context.set_trailing_metadata(tuple(self.trailing))
        async for message in messages:
            call.messages.append(message)
            orders = _text(method, message).split()
            if orders[:1] == ["sleep"]:
                await asyncio.sleep(float(orders[1]))
            elif orders[:1] == ["hold"]:
                await self.release.wait()
            elif orders[:1] == ["hang"]:
                await asyncio.Event().wait()
            elif orders[:1] == ["fail"]:
                await context.abort(_code(int(orders[1])), " ".join(orders[2:]))
            if method in UNARY:
                await context.send_initial_metadata(tuple(self.initial))
            if orders[:1] == ["flood"]:
                for _ in range(int(orders[1])):
                    yield bytes(int(orders[2]))
            else:
                yield answer(self.seed, method, message)


@asynccontextmanager
async def fake_tei(seed: int = 1, *options: tuple[str, int]) -> AsyncIterator[FakeTei]:
    """A running server, stopped at the end."""
    server = FakeTei(seed)
    await server.start(0, *options)
    try:
        yield server
    finally:
        await server.stop()


def answer(seed: int, method: str, message: bytes) -> bytes:
    """What a server of this seed answers: a pure function, so that a test can foretell it."""
    text = _text(method, message)
    octets = len(message)
    metadata = tei_pb2.Metadata(compute_chars=len(text), compute_tokens=octets, total_time_ns=7)
    response: Any
    match method.removesuffix("Stream"):
        case "Info":
            response = tei_pb2.InfoResponse(version="1.8", model_id=f"org/model-{seed}")
        case "Embed":
            response = tei_pb2.EmbedResponse(embeddings=_floats(seed, text), metadata=metadata)
        case "EmbedSparse":
            value = tei_pb2.SparseValue(index=seed, value=len(text))
            response = tei_pb2.EmbedSparseResponse(sparse_embeddings=[value], metadata=metadata)
        case "EmbedAll":
            token = tei_pb2.TokenEmbedding(embeddings=_floats(seed, text))
            response = tei_pb2.EmbedAllResponse(token_embeddings=[token] * 2, metadata=metadata)
        case "Predict" | "PredictPair":
            response = tei_pb2.PredictResponse(predictions=_scores(text), metadata=metadata)
        case "Rerank":
            rank = tei_pb2.Rank(index=0, text=text, score=seed)
            response = tei_pb2.RerankResponse(ranks=[rank], metadata=metadata)
        case "Tokenize":
            token_ = tei_pb2.SimpleToken(id=seed, text=text)
            response = tei_pb2.EncodeResponse(tokens=[token_])
        case _:
            response = tei_pb2.DecodeResponse(text=f"{seed}:{octets}")
    # A field that no .proto of ours has: what travels must not depend on our knowing it.
    encoded: bytes = response.SerializeToString()
    return encoded + b"\xc2\x3e\x03new"


def _scores(text: str) -> list[tei_pb2.Prediction]:
    """One score, which a text can set: ``… score=0.5``; ``two`` gives two."""
    _, _, number = text.partition("score=")
    score = float(number or len(text))
    count = 2 if text.startswith("two") else 1
    return [tei_pb2.Prediction(score=score, label="LABEL_0")] * count


def _floats(seed: int, text: str) -> list[float]:
    return list(struct.unpack("<4B", struct.pack("<I", seed * 7919 + len(text))))


def _text(method: str, message: bytes) -> str:
    """The text that a request is about, the last one where it has several."""
    name = method.removesuffix("Stream")
    if name in ("Info", "Decode"):
        return ""
    if name == "PredictPair":
        return (tei_pb2.PredictPairRequest.FromString(message).inputs or [""])[-1]
    if name == "Rerank":
        return tei_pb2.RerankRequest.FromString(message).query
    return tei_pb2.EmbedRequest.FromString(message).inputs  # field 1 of all the others


def _code(number: int) -> grpc.StatusCode:
    return next(code for code in grpc.StatusCode if code.value[0] == number)
