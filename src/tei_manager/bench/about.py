"""What a reader of figures must know of the machine and the programs, without names or places."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import tei_manager
from tei_manager.bench.interpreter import interpreter


def about(command: str, versions: str = "") -> dict[str, str]:
    """Return what is needed to repeat a run, and to judge it.

    Args:
        command: What was typed.
        versions: Of further programs that took part.
    """
    own = f"tei-manager {tei_manager.__version__}, Python {platform.python_version()}"
    libraries = ", ".join(f"{name} {version(name)}" for name in ("uvloop", "grpcio"))
    return {
        "command": command,
        "taken": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_model()}",
        "versions": ", ".join(filter(None, (own, libraries, versions))),
        "interpreter": interpreter(),
    }


def _model() -> str:
    """Return the processor's name where the system tells it (Linux)."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "unknown processor"
