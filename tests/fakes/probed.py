"""A manager that is probed, and the proof that a probe had no effect on it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from control_plane import Rig, running

from tei_manager.manager.instance import Status

TOKEN = "correct-horse-battery-staple"


class Probed:
    """A rig with one instance at rest, and everything that a probe could change about it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.api = rig.api

    def state(self) -> tuple[list[Status], list[str]]:
        """All instances, and all files that the manager has written."""
        files = sorted(str(path) for path in self.rig.folder.rglob("*") if "db" not in path.name)
        return self.rig.manager.registry.statuses(), files

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Fail if what happens inside changes an instance or a file."""
        before = self.state()
        yield
        assert self.state() == before

    async def refused(self, method: str, path: str, **request: Any) -> httpx.Response:
        """Send a probe, which must be refused in the one shape and change nothing."""
        with self.untouched():
            answer = await self.api.request(method, path, **request)
        assert 400 <= answer.status_code < 500, answer.text
        assert set(answer.json()) == {"error", "code", "timestamp"}
        return answer

    @staticmethod
    def body(**fields: Any) -> dict[str, Any]:
        """The body of a create request that is good but for what is given."""
        return {"name": "probe", "model_id": "org/model", "autostart": False, **fields}


@contextlib.asynccontextmanager
async def probed(folder: Path, **sections: Any) -> AsyncIterator[Probed]:
    """Run a manager to probe, with an instance ``victim``."""
    async with running(folder, **sections) as rig:
        rig.api.headers["authorization"] = f"Bearer {TOKEN}"
        await rig.create("victim", autostart=False)
        assert [status.name for status in rig.manager.registry.statuses()] == ["victim"]
        yield Probed(rig)
