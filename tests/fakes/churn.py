"""Instances that come and go through the API, while others look at them, call them and count.

`Churn` takes stub routers through their whole life again and again, beside instances that only
have a route: external ones, each on a port of its own of one program (`many_ports`). Meanwhile it
measures how long the API takes, and how long a worker takes for a call that it answers itself,
which is an upper bound of how late its loop is. A `Census` is what could leak.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import tomllib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
from fake_tei import FakeTei
from grpc_health.v1 import health_pb2, health_pb2_grpc
from multiplexer import embed, path
from prometheus_client.parser import text_string_to_metric_families
from served import served

EXTERNAL_MODEL = "org/model-1"
"""What `FakeTei(1)` says it serves."""

LOOK_PAUSE, CALL_PAUSE = 0.05, 0.01
"""Between two requests of somebody who looks, and two calls; with them the load is a given one."""

SCRAPED_EVERY = 20
"""Looks: the metrics are asked for about once a second, which is ten times as often as usual."""

WAIT = 120
"""Seconds of ``?wait=``, and of everything else that only a broken program lets come to its end."""


@dataclass(frozen=True)
class Census:
    """What there is of everything that could leak.

    Args:
        children: Processes below the manager.
        fds: Descriptors of the manager and of its workers.
        busy: Ports of the instances' ranges on which somebody listens.
        files: Below the manager's folder.
        series: Values of the label ``instance`` in the metrics.
        tasks: Of the manager's loop, where it is this one's.
    """

    children: int
    fds: int
    busy: frozenset[int]
    files: frozenset[str]
    series: frozenset[str]
    tasks: int = 0

    def left_since(self, before: Census) -> dict[str, Any]:
        """What is more or other than it was, by name; empty if nothing was left."""
        found: dict[str, Any] = {}
        for name in ("busy", "files", "series"):
            if more := getattr(self, name) ^ getattr(before, name):
                found[name] = sorted(more)
        for name in ("children", "fds", "tasks"):
            if (more := getattr(self, name) - getattr(before, name)) > 0:
                found[name] = more
        return found


@dataclass
class Churn:
    """A manager that has nothing else to do.

    Args:
        api: A client of its API.
        mux: ``host:port`` of its gRPC endpoint.

    Attributes:
        latencies: Seconds of each request, DELETE and ``?wait`` apart.
        lags: Seconds of each call that the worker answers itself.
        lives: From creation to deletion, of all stubs.
        calls: To the external instances.
        wrong: What became of those that failed.
    """

    api: httpx.AsyncClient
    mux: str
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    lives: int = 0
    calls: int = 0
    wrong: list[str] = field(default_factory=list)

    async def ask(self, method: str, where: str, **options: Any) -> Any:
        """Make a request whose time counts, and return the answer's document."""
        begun = time.perf_counter()
        answer = await self.api.request(method, where, **options)
        self.latencies.append(time.perf_counter() - begun)
        assert answer.is_success, answer.text
        return answer.json() if where != "/metrics" else answer.text

    async def run(self, names: Iterable[str], others: list[str], seconds: float) -> None:
        """Take instances through their lives for so long; each ends the life that it is in.

        Args:
            names: Of the stubs.
            others: Names of the external instances.
            seconds: How long.
        """
        until, over = time.monotonic() + seconds, threading.Event()
        caller = asyncio.create_task(asyncio.to_thread(self._call, others, over))
        looking = asyncio.create_task(self._look(others))
        try:
            await asyncio.gather(*(self._live(name, until) for name in names))
        finally:
            over.set()
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
            await caller

    async def create_externals(self, ports: list[int]) -> list[str]:
        """Create an external instance for each port and wait until all run."""
        names = [f"far-{number}" for number in range(len(ports))]
        for name, port in zip(names, ports, strict=True):
            body = {"name": name, "model_id": EXTERNAL_MODEL, "backend": "external"}
            await self.ask("POST", "/instances", json={**body, "address": f"127.0.0.1:{port}"})
        for name in names:
            await self.settled(name)
        await asyncio.to_thread(self._call_each, names)
        return names

    def _call_each(self, names: list[str]) -> None:
        """Have the worker connect to every instance."""
        with grpc.insecure_channel(self.mux, options=(("grpc.enable_http_proxy", 0),)) as channel:
            ask: Any = channel.unary_unary(path("Embed"), None, None)
            for name in names:
                ask(embed(name=name), timeout=WAIT)

    async def settled(self, name: str, status: str = "running") -> int:
        """Wait until an instance has a status, and return its process."""
        async with asyncio.timeout(WAIT):
            while True:
                view = (await self.api.get(f"/instances/{name}?wait={WAIT}")).json()
                if view.get("status") == status:
                    return int(view["pid"] or 0)
                assert view.get("status") != "failed", view
                await asyncio.sleep(0)

    async def _live(self, name: str, until: float) -> None:
        """Create, stop, start, crash, restart and delete, for as long as there is time."""
        while time.monotonic() < until:
            where = f"/instances/{name}"
            await self.ask("POST", "/instances", json={"name": name, "model_id": "org/stub"})
            await self.settled(name)
            await self.ask("POST", f"{where}/stop")
            await self.settled(name, "stopped")
            await self.ask("POST", f"{where}/start")
            crashed = await self.settled(name)
            os.kill(crashed, signal.SIGKILL)
            while await self.settled(name) == crashed:  # noqa: ASYNC110  # the loop may be
                await asyncio.sleep(0)  # the manager's, which has to notice it
            await self.ask("POST", f"{where}/restart")
            await self.settled(name)
            assert (await self.api.delete(where)).status_code == 204
            self.lives += 1

    async def _look(self, others: list[str]) -> None:
        """Look as pages of operators and a Prometheus do."""
        for turn in itertools.count():
            await self.ask("GET", "/instances")
            await self.ask("GET", "/health")
            await self.ask("GET", f"/instances/{random.choice(others)}")
            if turn % SCRAPED_EVERY == 0:
                await self.ask("GET", "/metrics")
            await asyncio.sleep(LOOK_PAUSE)

    def _call(self, others: list[str], over: threading.Event) -> None:
        """Ask the worker itself, and one external instance after the other, from a thread."""
        with grpc.insecure_channel(self.mux, options=(("grpc.enable_http_proxy", 0),)) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            ask: Any = channel.unary_unary(path("Embed"), None, None)
            while not over.wait(CALL_PAUSE):
                begun = time.perf_counter()
                check(health_pb2.HealthCheckRequest(), timeout=WAIT)
                self.lags.append(time.perf_counter() - begun)
                name = others[self.calls % len(others)]
                try:
                    ask(embed(name=name), timeout=WAIT)
                except grpc.RpcError as error:
                    self.wrong.append(f"{name}: {error}")
                self.calls += 1

    async def census(self, manager: int, folder: Path, ports: Iterable[int]) -> Census:
        """Count; ``manager`` is its process, ``ports`` the ranges of its instances."""
        text = (await self.api.get("/metrics")).text
        below = psutil.Process(manager).children(recursive=True)
        own = manager == os.getpid()
        return Census(
            len(below),
            psutil.Process(manager).num_fds()
            + sum(each.num_fds() for each in below if "tei_manager.mux.worker" in each.cmdline()),
            frozenset(filter(_is_listened_on, ports)),
            _files(folder),
            frozenset(
                sample.labels["instance"]
                for family in text_string_to_metric_families(text)
                for sample in family.samples
                if "instance" in sample.labels
            ),
            len(asyncio.all_tasks()) if own else 0,
        )

    async def left_since(
        self, before: Census, manager: int, folder: Path, ports: list[int], limit: float = 20
    ) -> dict[str, Any]:
        """Count until nothing is left; what is being closed needs a moment."""
        left: dict[str, Any] = {}
        with suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while left := (await self.census(manager, folder, ports)).left_since(  # noqa: ASYNC110
                    before
                ):
                    await asyncio.sleep(0)
        return left


@dataclass
class Judged:
    """A long run against a manager in a process of its own.

    Args:
        churn: What was done and measured.
        left: What was left that had not been there.
        grown: MiB by which the manager has grown.
        cores: How many the manager has used.
        idle: How many nobody used: with none, latencies are those of a machine that is too small.
    """

    churn: Churn
    left: dict[str, Any]
    grown: float
    cores: float
    idle: float

    @property
    def api(self) -> dict[float, float]:
        """Percentiles of the API's latencies, in milliseconds."""
        return {part: percentile(self.churn.latencies, part) for part in (0.5, 0.99, 1)}

    @property
    def lag(self) -> dict[float, float]:
        """Percentiles of calls that the worker answers itself, in milliseconds."""
        return {part: percentile(self.churn.lags, part) for part in (0.5, 0.99, 1)}

    def __str__(self) -> str:
        churn = self.churn
        api, lag = ("/".join(f"{ms:.1f}" for ms in each.values()) for each in (self.api, self.lag))
        return (
            f"{churn.lives} lives, left {self.left or 'nothing'}, {self.grown:+.2f} MiB, "
            f"{self.cores:.2f} cores, {self.idle:.2f} idle, {churn.calls} calls, "
            f"{len(churn.wrong)} failed {churn.wrong[:2]}; "
            f"ms at p50/p99/worst: API {api} of {len(churn.latencies)}, worker {lag}"
        )


async def judged(stubs: int, externals: int, seconds: float) -> Judged:
    """Run a manager, and stubs that come and go beside external instances, for so long."""
    ports = 2 * stubs
    with (
        tempfile.TemporaryDirectory() as name,
        served(Path(name), real_worker=True, ports=ports, max=stubs + externals) as manager,
    ):
        assert manager.process.stderr is not None
        _make_nice(Path(name, "router"))
        # What nobody reads would fill its pipe, and then hold the manager.
        threading.Thread(target=deque, args=(manager.process.stderr, 0), daemon=True).start()
        mux = manager.lines[-1]["message"].rpartition("gRPC on ")[2]
        seen, folder = psutil.Process(manager.process.pid), Path(name)
        first = tomllib.loads((folder / "config.toml").read_text())["instances"]["port_start"]
        where = seen.pid, folder, list(range(first, first + 2 * ports))
        async with (
            many_ports(externals) as theirs,
            httpx.AsyncClient(base_url=manager.url, trust_env=False, timeout=2 * WAIT) as api,
        ):
            churn = Churn(api, mux)
            others = await churn.create_externals(theirs)
            names = [f"stub-{number}" for number in range(stubs)]
            await churn.run(names, others, 0.1)
            before, memory = await churn.census(*where), seen.memory_info().rss
            churn.latencies.clear()
            churn.lags.clear()
            churn.lives = churn.calls = 0
            begun = _times(seen)
            await churn.run(names, others, seconds)
            took, cpu, idle = (now - then for now, then in zip(_times(seen), begun, strict=True))
            left = await churn.left_since(before, *where)
            grown = (seen.memory_info().rss - memory) / (1 << 20)
            return Judged(churn, left, grown, cpu / took, idle / took)


def _times(process: psutil.Process) -> tuple[float, float, float]:
    """The clock, and the CPU seconds of a process and of nobody."""
    return time.monotonic(), sum(process.cpu_times()[:2]), psutil.cpu_times().idle


def _make_nice(router: Path) -> None:
    """Have stubs give way: 20 that import gRPC all the time cost far more than what is measured."""
    router.write_text(router.read_text().replace("exec", "exec nice -n 19"))


def _is_listened_on(port: int) -> bool:
    """Whether somebody takes connections; that it cannot be bound may be a client's doing."""
    with socket.socket() as knock:
        return knock.connect_ex(("127.0.0.1", port)) == 0


def _files(folder: Path) -> frozenset[str]:
    return frozenset(str(file.relative_to(folder)) for file in folder.rglob("*"))


def percentile(values: list[float], part: float) -> float:
    """The value below which a part of all lies, in milliseconds."""
    return sorted(values)[int(part * (len(values) - 1))] * 1000


@asynccontextmanager
async def many_ports(count: int) -> AsyncIterator[list[int]]:
    """One program that serves as many instances, each on a port of its own; ended at the end."""
    here = Path(__file__)
    source = os.pathsep.join((str(here.parents[2] / "src"), str(here.parent)))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(str(here), str(count)),
        env={**os.environ, "PYTHONPATH": source},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(WAIT):
            ports = [int(port) for port in (await process.stdout.readline()).split()]
        yield ports
    finally:
        process.kill()
        await process.communicate()


async def serve(count: int) -> None:
    """Serve on so many ports until killed; says which."""
    server = FakeTei(1)
    ports = await server.start(further=count)
    sys.stdout.write(" ".join(map(str, ports)) + "\n")
    sys.stdout.flush()
    while True:
        await asyncio.sleep(1)
        server.calls.clear()
        server.arrived = asyncio.Queue()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
