"""Several engines beside each other: what each is told of the others, seen in its arguments."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psutil
import pytest
from control_plane import Rig, running

import tiny_models

pytestmark = pytest.mark.asyncio


async def _share(rig: Rig, name: str) -> list[str]:
    """What the running process of an engine was told."""
    view = await rig.until(name, "running")
    return [word for word in psutil.Process(view["pid"]).cmdline() if "--engines" in word]


async def test_engines_of_the_file_share_the_cores_from_the_first_on(tmp_path: Path) -> None:
    model = str(tiny_models.write(tmp_path / "model").directory)
    engine: dict[str, Any] = {"model_id": model, "backend": "engine"}
    instances = [
        {"name": "router", "model_id": "org/model"},
        {"name": "first", **engine},
        {"name": "second", **engine},
        {"name": "off", "autostart": False, **engine},
    ]
    async with running(tmp_path, instance=instances) as rig:
        shares = await asyncio.gather(*(_share(rig, name) for name in ("first", "second")))
        assert shares == [["--engines=2"]] * 2
        assert await _share(rig, "router") == []
        await rig.post("second", "stop")
        await rig.post("first", "restart")
        assert await _share(rig, "first") == []


async def test_what_somebody_asks_for_comes_before_the_share(tmp_path: Path) -> None:
    model = str(tiny_models.write(tmp_path / "model").directory)
    own = {"name": "own", "model_id": model, "backend": "engine", "extra_args": ["--engines=1"]}
    other = {"name": "other", "model_id": model, "backend": "engine"}
    async with running(tmp_path, instance=[own, other]) as rig:
        assert await _share(rig, "own") == ["--engines=2", "--engines=1"]
