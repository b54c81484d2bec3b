"""The multiplexer under test: a worker in this process, or one in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tei_manager.grpc.methods import MULTIPLEXER
from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.proto.tei.v1 import tei_pb2
from tei_manager.mux import worker as worker_module
from tei_manager.mux.switch import Options
from tei_manager.mux.worker import Worker
from tei_manager.routes import Route, RouteTable
from tei_manager.tls import Certificates
from tei_manager.unix_socket import UnixAddress
from tei_manager.wire.windows import EXTRA_WINDOW

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
)


def path(method: str) -> str:
    """The ``:path`` of a method of the multiplexer."""
    return f"/{MULTIPLEXER}/{method}"


def embed(text: str = "Hello world", name: str = "a", **target: Any) -> bytes:
    """An encoded ``EmbedRequest``; also one of every method whose request has ``inputs``."""
    to = mux_pb2.Target(**target) if target else mux_pb2.Target(instance_name=name)
    request = tei_pb2.EmbedRequest(inputs=text)
    return bytes(mux_pb2.EmbedRequest(target=to, request=request).SerializeToString())


def framed(message: bytes, flag: int = 0) -> bytes:
    """A message with gRPC's prefix."""
    return bytes((flag,)) + len(message).to_bytes(4, "big") + message


def table(*routes: Route | tuple[str, int], version: int = 1) -> RouteTable:
    """A route table of (name, port) pairs or whole routes, ordinals in the order given."""
    whole = [
        r if isinstance(r, Route) else Route(r[0], f"org/{r[0]}", port=r[1], ordinal=n)
        for n, r in enumerate(routes)
    ]
    return RouteTable(version, whole)


async def until(condition: Callable[[], bool], limit: float = 5) -> None:
    """Let the loop turn until the condition holds; every turn does I/O, so none is idle time."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110  # what is waited for has no event
            await asyncio.sleep(0)


class Multiplexer:
    """A worker in this process and loop."""

    def __init__(self, worker: Worker, port: int) -> None:
        self.worker = worker
        self.switch = worker.switch
        self.port = port
        self._channels: list[grpc.aio.Channel] = []

    @property
    def certificates(self) -> Certificates:
        """Those of the port, which has TLS."""
        assert self.worker._certificates is not None
        return self.worker._certificates

    def channel(self, *options: tuple[str, int]) -> Any:
        """A channel of its own connection, closed at the end; untyped, as octets go raw."""
        address = f"127.0.0.1:{self.port}"
        channel = grpc.aio.insecure_channel(address, options=(*CHANNEL_OPTIONS, *options))
        self._channels.append(channel)
        return channel

    async def close_channels(self) -> None:
        """Close what `channel` gave."""
        channels, self._channels = self._channels, []
        for channel in channels:
            await channel.close(None)

    def leftovers(self) -> dict[str, int]:
        """Everything that calls hold while they run, as far as it is not zero."""
        switch = self.switch
        backends = switch.backends._by_name.values()
        endpoints = list(switch.endpoints)
        held = {
            "queued octets": switch.pool.queued,
            "borrowed window": EXTRA_WINDOW - switch.pool.free,
            "calls": switch.counters.in_flight,
            "waiting": switch.backends.waiting(),
            "exchanges": sum(backend.in_flight for backend in backends),
            "slots": sum(endpoint.connection.slots for endpoint in endpoints),
            "streams": sum(len(endpoint.connection.streams) for endpoint in endpoints),
            "live": sum(getattr(endpoint, "live", 0) for endpoint in endpoints),
            "deadlines": sum(map(len, switch.deadlines._ticks.values())),
        }
        return {what: number for what, number in held.items() if number}

    async def settled(self, limit: float = 5) -> None:
        """Wait until nothing is held any more, or say what is."""
        try:
            await until(lambda: not self.leftovers(), limit)
        except TimeoutError:
            raise AssertionError(f"held for ever: {self.leftovers()}") from None


@asynccontextmanager
async def multiplexer(
    *routes: Route | tuple[str, int], **options: Any
) -> AsyncIterator[Multiplexer]:
    """A multiplexer in this loop that routes to (name, port) pairs; cut at the end.

    Among the options may be ``tls``, a `Tls`, ``unix``, the path of a Unix socket, and ``tokens``.
    """
    tls, unix = options.pop("tls", None), options.pop("unix", None)
    tokens = options.pop("tokens", None)
    listening = worker_module._bind(("127.0.0.1", 0))
    beside = [UnixAddress(unix).bind(16)] if unix else []
    worker = Worker(Options(**options), Certificates(tls, "h2") if tls else None, tokens)
    worker.apply(table(*routes))
    serving = asyncio.create_task(worker.serve(listening, *beside))
    mux = Multiplexer(worker, listening.getsockname()[1])
    thresholds = gc.get_threshold()
    try:
        yield mux
    finally:
        await mux.close_channels()
        worker.drain()
        worker.drain()
        await serving
        # What the worker froze stays so: the next one would look through all of it again, which
        # takes most of a second when a thousand tests have run.
        gc.set_threshold(*thresholds)


class MultiplexerProcess:
    """A multiplexer in a process of its own, as ``tei-manager mux`` runs it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)


@asynccontextmanager
async def multiplexer_process(
    *routes: tuple[str, int],
    options: dict[str, Any] | None = None,
    files: int | None = None,
    metrics: tuple[str, int] | None = None,
) -> AsyncIterator[MultiplexerProcess]:
    """A running process, killed at the end if it still runs; ``files`` limits its descriptors."""
    limit = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}))\n" if files else ""
    program = (
        f"import resource\n{limit}"
        "from tei_manager.mux.worker import run_standalone\n"
        "from tei_manager.routes import RouteTable\n"
        f"table = RouteTable.from_json({table(*routes).to_json()!r})\n"
        f"run_standalone(('127.0.0.1', 0), table, {options or {}!r}, {metrics!r})\n"
    )
    source = str(Path(worker_module.__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", program),
        env={**os.environ, "PYTHONPATH": source},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(20):
            line = (await process.stdout.readline()).decode()
        port = int(line.partition(",")[0].rpartition(":")[2])
        yield MultiplexerProcess(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
