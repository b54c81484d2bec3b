"""What all proxies that are measured have in common."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from benchmarks.calls import SERVICE
from benchmarks.peers.tls import Tls
from benchmarks.processes import PROXY_CORE


@dataclass(frozen=True)
class Peer:
    """A proxy that runs, and the way in that is measured.

    Args:
        name: What it is called in results.
        port: Takes calls, on the loopback address.
        pids: The processes that do the work.
        tls: The proxy speaks nothing else to clients; None for plain connections.
        unix: The socket that takes calls in place of the port.
        service: The gRPC service whose methods are called.
        metadata: That every call carries.
    """

    name: str
    port: int
    pids: tuple[int, ...]
    tls: Tls | None = None
    unix: Path | None = None
    service: str = SERVICE
    metadata: tuple[tuple[str, str], ...] = ()

    @property
    def address(self) -> str:
        """``HOST:PORT`` that takes calls."""
        return f"127.0.0.1:{self.port}"


def installed(name: str) -> str:
    """Return the path of a program.

    Raises:
        FileNotFoundError: There is none; the text is its name.
    """
    binary = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if binary is None:
        raise FileNotFoundError(name)
    return binary


def core_for(workers: int) -> int | None:
    """Return the core that a proxy has to itself, None for one that may use all of them."""
    return PROXY_CORE if workers == 1 else None


def split(address: str) -> tuple[str, int]:
    """Return host and port of ``HOST:PORT``."""
    host, _, port = address.rpartition(":")
    return host, int(port)
