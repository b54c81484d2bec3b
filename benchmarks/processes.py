"""Processes of a measurement: started on a core of their own, and what they use of the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO

START_SECONDS = 15.0
PROXY_CORE, OTHER_CORE = 0, 1
"""The proxy has a core for itself; load generator and backend share the other."""


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def pin(core: int | None) -> None:
    """Keep this process, and what it starts, on one core where the platform can do that.

    Args:
        core: Its number; None lets go of it again.
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_setaffinity") and (core is None or core < count):
        os.sched_setaffinity(0, range(count) if core is None else {core})


@contextmanager
def running(argv: list[str], port: int, core: int | None = OTHER_CORE) -> Iterator[int]:
    """Run a program until the block ends, entered once it listens; yields its process id."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, preexec_fn=lambda: pin(core))
        try:
            _await_port(process, port, output)
            yield process.pid
        finally:
            end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to end, and make it end if it does not."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, output: IO[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    output.seek(0)
    raise RuntimeError(f"{process.args!r} does not listen: {output.read()[-2000:]!r}")


def children_of(pid: int, count: int) -> tuple[int, ...]:
    """Return the children of a process, once there are so many (Linux)."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = children.read_text().split()
        if len(found) >= count:
            return tuple(int(child) for child in found[:count])
        time.sleep(0.02)
    raise RuntimeError(f"process {pid} has not {count} children")


def cpu_ns(*pids: int) -> int:
    """Return the CPU time of all threads of processes so far, in ns (Linux)."""
    tasks = [task for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def kernel_ns(*pids: int) -> int:
    """Return how much of the CPU time of processes was the kernel's, in ns and steps of 10 ms."""
    texts = [Path(f"/proc/{pid}/stat").read_text() for pid in pids]
    ticks = sum(int(text.rpartition(")")[2].split()[12]) for text in texts)  # proc(5): stime
    return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def memory_mb(*pids: int) -> float:
    """Return how much of processes is in memory, in 2^20 octets (Linux)."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(text.split("VmRSS:")[1].split()[0]) for text in texts) / 1024


class Others:
    """Tells how much of the machine other programs took since it was made (Linux)."""

    def __init__(self) -> None:
        self._begin = self._seconds()

    @staticmethod
    def _seconds() -> tuple[float, float]:
        """Return CPU time so far: all there was, and what others than this program used of it."""
        ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        idle = ticks[3] + ticks[4]  # proc(5): user nice system idle iowait irq softirq steal
        busy = (sum(ticks) - idle) / os.sysconf("SC_CLK_TCK")
        return sum(ticks) / os.sysconf("SC_CLK_TCK"), busy - sum(os.times()[:4])

    def share(self) -> float:
        """Return the part of all cores' time that others used, once this program's children ended.

        The host of a virtual machine counts as others too.
        """
        end = self._seconds()
        return max(0.0, end[1] - self._begin[1]) / max(end[0] - self._begin[0], 1e-9)

    def told(self) -> str:
        """Return `share` as a sentence of a run's results."""
        return f"{self.share():.0%} of the cores' time went to other programs"


def wake_exactly() -> None:
    """Let this process wait for times as short as it says, not 50 µs longer (Linux)."""
    slack = Path("/proc/self/timerslack_ns")
    if slack.exists():
        slack.write_text("1")
