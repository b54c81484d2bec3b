"""Load with known answers for as long as you like, and what the process is like after.

Theory
    Callers make one call after the other, each of a kind drawn by chance: an answer that is
    compared, octet by octet, with what the instance must have said; a cancel; a deadline that
    passes; a message above the limit. Every kind has one status that it must end with, while an
    instance is away also UNAVAILABLE. The process under test is only looked at from outside: its
    resident memory, its file descriptors, and its own gauges.

Rules of this file
    1. All traffic is on loopback, by a fixed number of callers, and ends with its time or count.
    2. Nothing is averaged away: one wrong octet or status is a failure, with its text.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import psutil
from fake_tei import answer
from multiplexer import CHANNEL_OPTIONS, MultiplexerProcess, embed, multiplexer_process, path
from prometheus_client.parser import text_string_to_metric_families
from soak_faults import PAUSE_SECONDS, Faults
from tei_process import TeiProcess

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2

MAX_MESSAGE_MB = 1
NAMES = ("a", "b")
METHODS = ("Embed", "EmbedSparse", "EmbedAll", "Predict", "Tokenize")
SIZES = (0, 10, 300, 5_000, 60_000)
SHARES = {"cancel": 10, "deadline": 5, "oversize": 1, "stream": 14, "unary": 70}
"""Of 100 calls: goal G30 of the reliability goals."""

STREAM_MESSAGES = 10
LONGEST_CALL = 30.0
"""Seconds that any call may take; a shared machine makes some of them slow."""

LOST = ("UNAVAILABLE", "INTERNAL Internal error from Core")
"""How calls end whose instance was killed. The second is grpc.aio's own: it failed to write on a
call that had ended, and forgot the status that came."""

GAUGES = ("requests_in_flight", "client_connections", "requests_queued")


ARENA_MIB = 1.0
"""Growth that is no slope: Python takes memory from the system in arenas of this size."""

SETTLE_SECONDS = 60.0
"""What a slope leaves out at first: caches fill. (Half of a shorter soak.)"""


class Figures:
    """What a soak found."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.causes: Counter[str] = Counter()  # of calls that failed while an instance was away
        self.faults: Counter[str] = Counter()
        self.memory: list[tuple[float, float]] = []  # (seconds, MiB)
        self.descriptors: list[tuple[float, float]] = []  # (seconds, number)
        self.fds: tuple[int, int] = (0, 0)
        self.gauges: dict[str, float] = {}

    @property
    def total(self) -> int:
        """Calls in all."""
        return sum(self.calls.values())

    def slope(self, after: float) -> float:
        """Return the memory's growth in MiB a minute, by least squares, after so many seconds."""
        points = [(seconds, mib) for seconds, mib in self.memory if seconds >= after]
        if len(points) < 2:
            return 0.0
        middle = sum(seconds for seconds, _ in points) / len(points)
        level = sum(mib for _, mib in points) / len(points)
        spread = sum((seconds - middle) ** 2 for seconds, _ in points)
        return 60 * sum((s - middle) * (mib - level) for s, mib in points) / spread

    def settled_slope(self, seconds: float) -> float:
        """Return the slope of a soak of that length, without its beginning."""
        return self.slope(min(SETTLE_SECONDS, seconds / 2))

    def complaints(self, seconds: float, most: float) -> list[str]:
        """Return what is wrong after a soak of that length; nothing if it is well.

        Args:
            seconds: How long it was.
            most: MiB a minute by which the process may grow.
        """
        slope = self.settled_slope(seconds)
        grown = slope * (seconds - min(SETTLE_SECONDS, seconds / 2)) / 60
        found = []
        if self.wrong:
            found.append(f"{len(self.wrong)} calls ended wrongly, such as {self.wrong[:2]}")
        if slope > most and grown >= ARENA_MIB:
            found.append(f"memory grows by {slope:.3f} MiB a minute, more than {most:.3f}")
        if (leak := self.fds[1] - self.fds[0]) > 0:
            found.append(f"{leak} file descriptors are left")
        if left := sum(self.gauges.values()):
            found.append(f"{left:g} calls or connections are left open")
        return found


class Soak:
    """A multiplexer in a process of its own, with two instances in theirs.

    Args:
        process: The multiplexer.
        metrics: Port of its metrics.
        instances: By name.
    """

    def __init__(
        self, process: MultiplexerProcess, metrics: int, instances: dict[str, TeiProcess]
    ) -> None:
        self.process, self.instances = process, instances
        self.port = process.port
        self._metrics = metrics
        self._seen = psutil.Process(process.process.pid)
        self.figures = Figures()
        self._faults = Faults(instances, self._answers)
        self._away = self._faults.away

    def channel(self) -> Any:
        """A channel of its own connection."""
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=CHANNEL_OPTIONS)

    async def run(
        self, seconds: float, callers: int = 16, kills: bool = False, pause: float = PAUSE_SECONDS
    ) -> Figures:
        """Call for so long; returns once all callers have ended and the process is idle.

        With ``kills`` instances have `Faults` meanwhile, ``pause`` seconds apart, and at least one
        however short the time is.
        """
        begun = time.monotonic()
        await self._warm_up()
        before = await self._descriptors(0)
        others = [asyncio.create_task(self._watch(begun))]
        if kills:
            others.append(asyncio.create_task(self._faults.run(pause)))

        def over() -> bool:
            return time.monotonic() >= begun + seconds and bool(self._faults.done or not kills)

        async with asyncio.TaskGroup() as group:
            for number in range(callers):
                group.create_task(self._caller(number, over))
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._rest()
        self.figures.faults = self._faults.done
        self.figures.fds = before, await self._descriptors(before)
        return self.figures

    async def _descriptors(self, expected: int) -> int:
        """Return the fewest descriptors seen while nothing is open: some are just being closed."""
        await self._rest()
        fewest = self._seen.num_fds()
        for _ in range(20):
            if fewest <= expected:
                break
            await asyncio.sleep(0.05)
            fewest = min(fewest, self._seen.num_fds())
        return fewest

    def rss(self) -> float:
        """Return the process' resident memory in MiB."""
        return float(self._seen.memory_info().rss) / (1 << 20)

    async def _warm_up(self) -> None:
        """Open the connections to the instances, which stay."""
        async with self.channel() as channel:
            for name in NAMES:
                await channel.unary_unary(path("Embed"))(embed(name=name), timeout=LONGEST_CALL)

    async def _watch(self, begun: float) -> None:
        while True:
            now = time.monotonic() - begun
            self.figures.memory.append((now, self.rss()))
            self.figures.descriptors.append((now, self._seen.num_fds()))
            await asyncio.sleep(1)

    async def _answers(self, name: str) -> None:
        """Wait until an instance answers through the multiplexer."""
        async with self.channel() as channel:
            call = channel.unary_unary(path("Embed"))
            await _until_ok(lambda: call(embed(name=name)))

    async def _caller(self, number: int, over: Callable[[], bool]) -> None:
        chance = random.Random(number)
        kinds, weights = list(SHARES), list(SHARES.values())
        async with self.channel() as channel:
            while not over():
                kind = chance.choices(kinds, weights)[0]
                name = chance.choice(NAMES)
                was_away = self._away.get(name, "")
                found = await self._call(channel, kind, name, chance)
                away = was_away or self._away.get(name, "")
                if found and not (away and found.startswith(LOST)):
                    self.figures.wrong.append(f"{kind}: {found}")
                if found and away:
                    self.figures.causes[f"{away}: {found.split()[0]}"] += 1
                self.figures.calls["away" if found and away else kind] += 1

    async def _call(self, channel: Any, kind: str, name: str, chance: random.Random) -> str:
        """Make a call of a kind; return what is wrong with its end, nothing if it is right."""
        match kind:
            case "cancel":
                return await self._cancel(channel, name, chance)
            case "deadline":
                call = channel.unary_unary(path("Embed"))(embed("hang", name), timeout=0.05)
                return await _status(call, grpc.StatusCode.DEADLINE_EXCEEDED)
            case "oversize":
                text = "x" * (MAX_MESSAGE_MB << 20)
                call = channel.unary_unary(path("Embed"))(embed(text, name), timeout=LONGEST_CALL)
                return await _status(call, grpc.StatusCode.RESOURCE_EXHAUSTED)
            case "stream":
                return await self._stream(channel, name, chance)
        method = chance.choice(METHODS)
        request = embed("x" * chance.choice(SIZES), name)
        call = channel.unary_unary(path(method))(request, timeout=LONGEST_CALL)
        return await self._compare(call, name, method, [request])

    async def _cancel(self, channel: Any, name: str, chance: random.Random) -> str:
        call = channel.unary_unary(path("Embed"))(embed("hang", name), timeout=LONGEST_CALL)
        await asyncio.sleep(chance.choice([0, 0.001, 0.01]))
        call.cancel()
        return await _status(call, grpc.StatusCode.CANCELLED)

    async def _stream(self, channel: Any, name: str, chance: random.Random) -> str:
        texts = [f"{n}" + "x" * chance.choice(SIZES) for n in range(STREAM_MESSAGES)]
        requests = [embed(text, name) for text in texts]
        call = channel.stream_stream(path("EmbedStream"))(iter(requests), timeout=LONGEST_CALL)
        return await self._compare(call, name, "Embed", requests)

    async def _compare(self, call: Any, name: str, method: str, requests: list[bytes]) -> str:
        """Return what is wrong with the answers to requests.

        The instance that answers may be the one of the beginning, or the one that replaced it.
        """
        seeds = [self.instances[name].seed]
        try:
            answers = [await call] if len(requests) == 1 else [reply async for reply in call]
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"
        seeds.append(self.instances[name].seed)
        right = [[_answer(seed, method, request) for request in requests] for seed in seeds]
        return "" if answers in right else "wrong octets"

    async def _rest(self) -> None:
        """Wait until the process says that nothing is open."""
        async with asyncio.timeout(LONGEST_CALL):
            while True:
                self.figures.gauges = await asyncio.to_thread(self._read_gauges)
                if not any(self.figures.gauges.values()):
                    return
                await asyncio.sleep(0.1)

    def _read_gauges(self) -> dict[str, float]:
        url = f"http://127.0.0.1:{self._metrics}/metrics"
        with urllib.request.urlopen(url, timeout=10) as reply:
            families = text_string_to_metric_families(reply.read().decode())
        found = {s.name: s.value for family in families for s in family.samples}
        return {name: v for name, v in found.items() if name.endswith(GAUGES)}


def _answer(seed: int, method: str, request: bytes) -> bytes:
    inner = mux_pb2.EmbedRequest.FromString(request).request.SerializeToString()
    return answer(seed, method, inner)


async def _status(call: Any, expected: grpc.StatusCode) -> str:
    try:
        await call
    except asyncio.CancelledError:
        return "" if expected is grpc.StatusCode.CANCELLED else "CANCELLED"
    except grpc.aio.AioRpcError as error:
        return "" if error.code() is expected else f"{error.code().name} {error.details()}"
    return "OK"


async def _until_ok(ask: Any) -> None:
    async with asyncio.timeout(LONGEST_CALL):
        while True:
            try:
                await ask()
                return
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def soak() -> AsyncIterator[Soak]:
    """A soak that is ready to run; its process and its instances end with it."""
    instances = {name: TeiProcess(number) for number, name in enumerate(NAMES, 1)}
    options = {"max_message_mb": MAX_MESSAGE_MB}
    metrics = _free_port()
    try:
        for instance in instances.values():
            await instance.start()
        routes = [(name, instance.port) for name, instance in instances.items()]
        async with multiplexer_process(
            *routes, options=options, metrics=("127.0.0.1", metrics)
        ) as process:
            yield Soak(process, metrics, instances)
    finally:
        for instance in instances.values():
            await instance.kill()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
