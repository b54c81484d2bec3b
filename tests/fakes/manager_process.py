"""`tei-manager serve` in a process of its own, with real workers, and callers that never pause.

Its instances are a stub router that it runs itself (``stub``) and a `FakeTei` of the test, which it
has as an external one (``fake``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import psutil
from control_plane import free_ports, stub_binary
from multiplexer import embed, path
from prometheus_client.parser import text_string_to_metric_families

START_LIMIT, STOP_LIMIT = 60, 60
"""Seconds; a start takes two on an idle machine."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

CONFIG = """
[api]
port = {api}
[grpc]
multiplexer_port = {grpc}
workers = {workers}
max_message_mb = {max_message_mb}
{grpc_more}
[instances]
port_start = {start}
port_end = {end}
metrics_port_start = {metrics_start}
metrics_port_end = {metrics_end}
tei_binary = "{binary}"
log_dir = "{folder}/logs"
stop_timeout_secs = {stop_timeout_secs}
on_exit = "{on_exit}"
[health]
interval_secs = 0.5
[state]
path = "{folder}/state.db"
[log]
format = "json"
[[instance]]
name = "stub"
model_id = "org/stub"
extra_args = ["--die-if={folder}/never"]
[[instance]]
name = "fake"
model_id = "org/model-1"
backend = "external"
address = "127.0.0.1:{fake}"
"""


class Home:
    """What managers that follow each other have in common: a folder, ports, settings.

    Args:
        folder: Empty at first.
        fake_port: Of the `FakeTei`.
        values: Further fields of `CONFIG`, which may be changed between two managers.
    """

    def __init__(self, folder: Path, fake_port: int, **values: Any) -> None:
        self.folder = folder
        first = free_ports(6)
        ports = ("api", "grpc", "start", "end", "metrics_start", "metrics_end")
        self.values: dict[str, Any] = {
            **{name: first + n for n, name in enumerate(ports)},
            "folder": folder,
            "binary": stub_binary(folder),
            "fake": fake_port,
            "workers": 2,
            "max_message_mb": 64,
            "grpc_more": "",
            "stop_timeout_secs": 60.0,
            "on_exit": "stop",
            **values,
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.values['grpc']}"

    def workers(self) -> set[int]:
        """Every worker that runs here, whoever started it."""
        return {
            process.pid
            for process in psutil.process_iter(["cmdline", "status"])
            if process.info["status"] != psutil.STATUS_ZOMBIE
            and f"{self.folder}/run/" in " ".join(process.info["cmdline"] or ())
        }

    @asynccontextmanager
    async def manager(self) -> AsyncIterator[ManagerProcess]:
        """A manager that serves; one that still runs at the end is stopped."""
        config = self.folder / "config.toml"
        config.write_text(CONFIG.format(**self.values))
        argv = [sys.executable, "-m", "tei_manager", "serve", "--config", str(config)]
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)  # noqa: ASYNC220
        manager = ManagerProcess(process, self.values["api"])
        try:
            async with asyncio.timeout(START_LIMIT):
                await manager.says("Serving: ")
            yield manager
        finally:
            await manager.end(signal.SIGINT)
            assert process.stderr is not None
            process.stderr.close()

    def clean(self) -> None:
        """Kill what a test that failed has left: whose arguments name the folder."""
        for process in psutil.process_iter(["cmdline"]):
            if str(self.folder) in " ".join(process.info["cmdline"] or ()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


class ManagerProcess:
    """A manager's process and its API."""

    def __init__(self, process: subprocess.Popen[str], api: int) -> None:
        self.process = process
        self.lines: list[str] = []
        self._api = f"http://127.0.0.1:{api}"

    async def says(self, pattern: str) -> str:
        """Wait for a line of the log."""

        def read() -> str:
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self.lines.append(json.loads(line)["message"])
                if re.search(pattern, self.lines[-1]):
                    return self.lines[-1]
            raise AssertionError(f"no line {pattern!r} in {self.lines}")

        return await asyncio.to_thread(read)

    async def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, STOP_LIMIT)

    async def get(self, what: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self._api, trust_env=False, timeout=30) as http:
            return await http.get(what)

    async def instance(self, name: str) -> Any:
        return (await self.get(f"/instances/{name}")).json()

    async def all_run(self) -> None:
        """Wait until both instances run; asking is the pause between two looks."""
        async with asyncio.timeout(60):
            while (await self.get("/health")).json()["instances"]["running"] < 2:
                pass

    async def samples(self) -> Samples:
        """All metrics as they are now."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families((await self.get("/metrics")).text)
            for sample in family.samples
        }

    async def samples_when(self, condition: Callable[[Samples], bool]) -> Samples:
        """All metrics as soon as they fulfil a condition; asking is the pause between two looks."""
        async with asyncio.timeout(30):
            while not condition(samples := await self.samples()):
                pass
        return samples


def cumulative(samples: Samples) -> Samples:
    """Those that workers count and that may never fall."""
    ends = ("_total", "_count", "_bucket", "_sum")
    return {
        key: value
        for key, value in samples.items()
        if key[0].startswith("tei_grpc_") and key[0].endswith(ends)
    }


def answered(samples: Samples) -> float:
    """How many Embed calls went well, as the metrics say."""
    labels = (("code", "0"), ("method", "embed"))
    return samples.get(("tei_grpc_multiplexer_responses_total", labels), 0)


def connect(address: str) -> Any:
    """A channel with a connection of its own, untyped, as octets go raw.

    Otherwise with the library's defaults: it sends a call again that it had not sent yet when a
    GOAWAY came in, unless ``grpc.enable_retries`` is 0, and then such a call fails.
    """
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))
    return grpc.aio.insecure_channel(address, options=options)


def fallen(before: Samples, after: Samples) -> list[Any]:
    """Series that are lower than they were, or gone."""
    return [
        (key, value, after.get(key))
        for key, value in cumulative(before).items()
        if after.get(key, -1.0) < value
    ]


class Caller:
    """Makes one call after the other on a connection of its own, until it is told to stop."""

    def __init__(self, address: str, name: str, connect: Callable[[str], Any] = connect) -> None:
        self._address, self._name, self._connect = address, name, connect
        self.good = 0
        self.failures: list[str] = []
        self._over = False
        self._turned = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self._connect(self._address) as channel:
            call = channel.unary_unary(path("Embed"))
            while not self._over:
                try:
                    await call(embed("four", self._name), timeout=30)
                    self.good += 1
                except grpc.aio.AioRpcError as error:
                    self.failures.append(f"{error.code().name}: {error.details()}")
                self._turned.set()

    async def more(self, count: int) -> None:
        """Wait for so many further answers."""
        goal = self.good + count
        async with asyncio.timeout(60):
            while self.good < goal:
                self._turned.clear()
                await self._turned.wait()

    async def stop(self) -> None:
        self._over = True
        await self._task


@asynccontextmanager
async def calling(
    address: str, *names: str, connect: Callable[[str], Any] = connect
) -> AsyncIterator[list[Caller]]:
    """A caller for each name of an instance."""
    callers = [Caller(address, name, connect) for name in names]
    try:
        await asyncio.gather(*(caller.more(5) for caller in callers))
        yield callers
    finally:
        await asyncio.gather(*(caller.stop() for caller in callers))


async def more(callers: list[Caller], count: int = 20) -> None:
    """Wait for further answers to every caller."""
    await asyncio.gather(*(caller.more(count) for caller in callers))


def failures(callers: list[Caller]) -> list[str]:
    return [failure for caller in callers for failure in caller.failures]
