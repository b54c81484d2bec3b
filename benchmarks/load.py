"""Load by h2load (Debian ``nghttp2-client``), and what the process in the middle paid for it."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import OTHER_CORE, pin

RUN_SECONDS = 120.0

_METHOD = "/tei_multiplexer.v1.TeiMultiplexer/Embed"
_TEXT = b"The quick brown fox jumps over the lazy dog, once more and again."


@dataclass(frozen=True)
class Load:
    """What one run gave: CPU of the proxy and the fastest call in µs, and calls per second."""

    cpu_us: float
    fastest_us: float
    per_second: float


def embed_message() -> bytes:
    """Return a framed Embed request of the multiplexer for the instance "bench"."""
    target = b"\x0a\x05bench"
    inner = b"\x0a" + bytes((len(_TEXT),)) + _TEXT + b"\x10\x01"
    message = b"\x0a" + bytes((len(target),)) + target
    message += b"\x12" + bytes((len(inner),)) + inner
    return b"\0" + len(message).to_bytes(4, "big") + message


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process so far, in ns (Linux)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def run(port: int, pid: int, calls: int, streams: int) -> Load:
    """Make ``calls`` unary calls on one connection, ``streams`` at a time, all of which must be OK.

    Raises:
        RuntimeError: h2load is missing, or a call failed.
    """
    binary = shutil.which("h2load")
    if binary is None:
        raise RuntimeError("h2load is not installed (Debian package nghttp2-client)")
    with tempfile.NamedTemporaryFile() as body:
        body.write(embed_message())
        body.flush()
        argv = [binary, f"-n{calls}", "-c1", f"-m{streams}", "-d", body.name]
        argv += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        argv += [f"http://127.0.0.1:{port}{_METHOD}"]
        before = cpu_ns(pid)
        result = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=True,
            preexec_fn=lambda: pin(OTHER_CORE),
        )
        cpu = cpu_ns(pid) - before
    return _read(result.stdout, calls, cpu)


def _read(report: str, calls: int, cpu: int) -> Load:
    done = re.search(r"(\d+) succeeded, (\d+) failed", report)
    if done is None or int(done[1]) != calls:
        raise RuntimeError(f"not every call succeeded:\n{report}")
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", report)
    fastest = re.search(r"time for request:\s+([\d.]+)(us|ms|s)", report)
    if rate is None or fastest is None:
        raise RuntimeError(f"h2load said what is not understood:\n{report}")
    unit = {"us": 1.0, "ms": 1e3, "s": 1e6}[fastest[2]]
    return Load(cpu / calls / 1e3, float(fastest[1]) * unit, float(rate[1]))
