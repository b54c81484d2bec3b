"""The GPUs of this machine, numbered as ``nvidia-smi`` numbers them.

They are counted by NVML, the library of the driver, and by ``nvidia-smi`` itself where that
cannot be loaded. A machine without a GPU has a count of 0, which is no error until an instance
asks for one. A ``CUDA_VISIBLE_DEVICES`` that the manager was started with counts before both: it
is what CUDA will do, and may name parts of a GPU, which neither of them counts.

CUDA by itself puts the fastest GPU first; ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` makes it number them
in the order of NVML.
"""

from __future__ import annotations

import asyncio
import functools
import subprocess
from collections.abc import Callable, Mapping

import pynvml

from tei_manager.errors import InvalidGpuId

# A driver that nothing holds open takes seconds to wake many GPUs.
_SMI_LIMIT = 15.0


@functools.cache
def count() -> int:
    """Return how many GPUs there are, as found by the first call; it may take seconds."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return _count_by_smi()
    try:
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return _count_by_smi()
    finally:
        pynvml.nvmlShutdown()


async def get_counted(gpu_id: int | None) -> None:
    """Have the GPUs counted in a thread if one was asked for, so that `count` answers at once.

    Args:
        gpu_id: Of an instance; ``None`` if it asks for none.
    """
    if gpu_id is not None:
        await asyncio.to_thread(count)


def _count_by_smi() -> int:
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(  # noqa: S603 - a constant list
            command, capture_output=True, text=True, timeout=_SMI_LIMIT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return 0
    return sum(line.strip().isdigit() for line in answer.stdout.splitlines())


def chosen(gpu_id: int, parent: Mapping[str, str], counted: Callable[[], int]) -> dict[str, str]:
    """Return the variables that show an instance one GPU only.

    Args:
        gpu_id: Index among the GPUs that the manager may see, from 0.
        parent: The manager's own environment.
        counted: Counts the GPUs of the machine; `count`.

    Raises:
        InvalidGpuId: The manager does not see so many GPUs.
    """
    visible = parent.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        _check(gpu_id, counted(), "this machine has")
        return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(gpu_id)}
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    _check(gpu_id, len(devices), "CUDA_VISIBLE_DEVICES lists")
    return {"CUDA_VISIBLE_DEVICES": devices[gpu_id]}


def _check(gpu_id: int, number: int, where: str) -> None:
    if number == 0:
        raise InvalidGpuId(f"gpu_id {gpu_id}: {where} no GPU; leave gpu_id out to use the CPU")
    if gpu_id >= number:
        many = "1 GPU" if number == 1 else f"{number} GPUs"
        raise InvalidGpuId(f"gpu_id {gpu_id} is too high: {where} {many}; choose a lower one")
