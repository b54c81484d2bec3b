"""GPUs are counted as nvidia-smi counts them, and only an instance that asks for one needs one."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from control_plane import running

from tei_manager.errors import InvalidGpuId
from tei_manager.manager import gpus
from tei_manager.manager.launcher import environment
from tei_manager.settings import InstanceSpec

SPEC = InstanceSpec(name="a", model_id="org/model")


@pytest.fixture(autouse=True)
def _counted_anew() -> Iterator[None]:
    gpus.count.cache_clear()
    yield
    gpus.count.cache_clear()


def _no_driver() -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def _smi(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program in the place of nvidia-smi, beside a driver library that is not there."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(pynvml, "nvmlInit", _no_driver)


def test_library_of_the_driver_is_asked_first_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: asked.append("init"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 3)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: asked.append("shutdown"))
    assert (gpus.count(), gpus.count()) == (3, 3)
    assert asked == ["init", "shutdown"]


@pytest.mark.asyncio
async def test_driver_that_takes_its_time_does_not_hold_the_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    asked, goes_on = threading.Event(), threading.Event()

    def wake_up() -> None:
        asked.set()
        assert goes_on.wait(30), "the loop, which would let it go on, is held"

    monkeypatch.setattr(pynvml, "nvmlInit", wake_up)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    async with running(tmp_path) as rig:
        creating = asyncio.create_task(rig.create("a", gpu_id=0))
        await asyncio.to_thread(asked.wait, 30)
        assert (await rig.create("b", autostart=False))["status"] == "stopped"
        assert not creating.done()
        goes_on.set()
        assert (await creating)["status"] == "running"
        gpus.count.cache_clear()
        asked.clear()
        goes_on.clear()
        restarting = asyncio.create_task(rig.post("a", "restart"))
        await asyncio.to_thread(asked.wait, 30)
        assert (await rig.show("b"))["status"] == "stopped"
        goes_on.set()
        assert (await restarting)["status"] == "running"


@pytest.mark.parametrize(
    ("script", "number"),
    [
        ("echo 0; echo 1", 2),
        ("echo 'No devices were found'", 0),
        ("echo 0; exit 9", 0),
    ],
)
def test_nvidia_smi_is_asked_where_the_library_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, number: int
) -> None:
    _smi(tmp_path, script, monkeypatch)
    assert gpus.count() == number


def test_machine_without_a_gpu_has_a_count_of_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(pynvml, "nvmlInit", _no_driver)
    assert gpus.count() == 0
    assert "CUDA_VISIBLE_DEVICES" not in environment(SPEC, {}, "")


@pytest.mark.parametrize(
    ("parent", "gpu_id", "given"),
    [
        ({}, 1, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}),
        ({"CUDA_VISIBLE_DEVICES": "2,3"}, 1, {"CUDA_VISIBLE_DEVICES": "3"}),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa, GPU-bb"}, 0, {"CUDA_VISIBLE_DEVICES": "GPU-aa"}),
    ],
)
def test_gpu_counts_within_those_that_the_manager_sees(
    parent: dict[str, str], gpu_id: int, given: dict[str, str]
) -> None:
    spec = SPEC.model_copy(update={"gpu_id": gpu_id})
    assert environment(spec, parent, "", lambda: 2) == given


@pytest.mark.parametrize(
    ("parent", "number", "sentence"),
    [
        ({}, 0, "gpu_id 2: this machine has no GPU; leave gpu_id out to use the CPU"),
        ({}, 1, "gpu_id 2 is too high: this machine has 1 GPU; choose a lower one"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 8, "too high: CUDA_VISIBLE_DEVICES lists 2 GPUs"),
        ({"CUDA_VISIBLE_DEVICES": ""}, 8, "gpu_id 2: CUDA_VISIBLE_DEVICES lists no GPU"),
    ],
)
def test_gpu_that_the_manager_does_not_see_is_refused(
    parent: dict[str, str], number: int, sentence: str
) -> None:
    spec = SPEC.model_copy(update={"gpu_id": 2})
    with pytest.raises(InvalidGpuId, match=sentence):
        environment(spec, parent, "", lambda: number)
