"""A real manager with its API in this process, stub routers as instances and fake workers.

Everything is real but the mux worker: processes, sockets, SQLite. Ports are chosen by the system
in advance, so that test runs beside each other do not meet.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tei_manager.api.app import create_app
from tei_manager.manager.lifecycle import Backoff
from tei_manager.manager.manager import Manager
from tei_manager.settings import Settings

TESTS = Path(__file__).parents[1]
STUB = TESTS / "stub_router" / "stub.py"
FAKE_WORKER = (sys.executable, str(TESTS / "fakes" / "fake_worker.py"))

QUICK = Backoff(first=0.05, longest=0.1, crashes=3)
"""Three crashes in a row within a quarter of a second are a loop."""


def free_ports(count: int) -> int:
    """The first of ``count`` ports in a row that are free now."""
    while True:
        with contextlib.ExitStack() as stack:
            first = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            start: int = first.getsockname()[1]
            if start + count > 60999:
                continue
            with contextlib.suppress(OSError):
                for port in range(start + 1, start + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
                return start


def stub_binary(folder: Path) -> Path:
    """An executable that is the stub router."""
    folder.mkdir(parents=True, exist_ok=True)
    binary = folder / "router"
    binary.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{STUB}" "$@"\n')
    binary.chmod(0o755)
    return binary


def settings(folder: Path, **sections: dict[str, Any]) -> Settings:
    """Settings for a manager that lives in a folder; sections are merged over quick defaults."""
    start = free_ports(12)
    document: dict[str, dict[str, Any]] = {
        "api": {"port": 0},
        "grpc": {"multiplexer_port": 0},
        "instances": {
            "port_start": start,
            "port_end": start + 5,
            "metrics_port_start": start + 6,
            "metrics_port_end": start + 11,
            "tei_binary": str(stub_binary(folder)),
            "log_dir": folder / "logs",
            "stop_timeout_secs": 5,
            "startup_timeout_secs": 30,
        },
        "health": {"interval_secs": 0.1},
        "state": {"path": folder / "s" / "state.db"},
    }
    merged: dict[str, Any] = {
        name: {**document.get(name, {}), **sections.get(name, {})}
        for name in document.keys() | sections.keys()
        if name != "instance"
    }
    return Settings.model_validate({**merged, "instance": sections.get("instance", ())})


@dataclass
class Rig:
    """A running manager and a client of its API."""

    manager: Manager
    api: httpx.AsyncClient
    folder: Path

    async def create(self, name: str, *extra_args: str, wait: float = 30, **fields: Any) -> Any:
        """Create an instance and return its view, or the error's."""
        body = {"name": name, "model_id": "org/model", "extra_args": extra_args, **fields}
        return (await self.api.post("/instances", json=body, params={"wait": wait})).json()

    async def show(self, name: str) -> Any:
        return (await self.api.get(f"/instances/{name}")).json()

    async def post(self, name: str, verb: str, wait: float = 30) -> Any:
        answer = await self.api.post(f"/instances/{name}/{verb}", params={"wait": wait})
        return answer.json()

    async def until(self, name: str, *statuses: str, limit: float = 20) -> Any:
        """Wait, without polling, until the instance shows one of the statuses."""
        import asyncio

        supervisor = self.manager.registry.get(name)
        async with asyncio.timeout(limit):
            await supervisor._until(lambda: supervisor.status.state.value in statuses)
        return await self.show(name)

    def tables(self) -> list[dict[str, Any]]:
        """Every route table that the workers got, oldest first."""
        lines = (self.folder / "s" / "run" / "tables").read_text().splitlines()
        return [json.loads(line) for line in lines]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def group_members(pgid: int) -> list[int]:
    """Processes of a group that run."""
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pgid and alive(pid):
                members.append(pid)
    return members


def survivors(pgid: int, limit: float = 5) -> list[int]:
    """Processes of a group that was killed which still run after a while."""
    members = [psutil.Process(pid) for pid in group_members(pgid)]
    psutil.wait_procs(members, timeout=limit)
    return group_members(pgid)


@contextlib.asynccontextmanager
async def running(
    folder: Path,
    *,
    backoff: Backoff = QUICK,
    worker: Sequence[str] = FAKE_WORKER,
    **sections: Any,
) -> AsyncIterator[Rig]:
    """Run a manager in a folder; one that ran there before left its state."""
    manager = Manager(settings(folder, **sections), worker, backoff)
    try:
        await manager.start()
        transport = httpx.ASGITransport(create_app(manager), raise_app_exceptions=False)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", timeout=60
        ) as client:
            yield Rig(manager, client, folder)
    finally:
        await manager.stop()
