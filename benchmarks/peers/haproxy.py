"""HAProxy, if it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.peer import Peer, core_for, installed
from benchmarks.peers.tls import Tls
from benchmarks.processes import free_port, running


@contextmanager
def haproxy(backend: str, workers: int = 1, tls: Tls | None = None) -> Iterator[Peer]:
    """Run HAProxy with so many threads."""
    binary = installed("haproxy")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "haproxy.cfg"
        path.write_text(_haproxy_config(port, backend, workers, tls))
        with running([binary, "-db", "-f", str(path)], port, core_for(workers)) as pid:
            yield Peer("haproxy", port, (pid,), tls)


def _haproxy_config(port: int, backend: str, threads: int, tls: Tls | None) -> str:
    how = f"ssl crt {tls.both} alpn h2" if tls else "proto h2"
    return f"""
global
  nbthread {threads}
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 60s
frontend front
  bind 127.0.0.1:{port} {how}
  default_backend tei
backend tei
  server one {backend} proto h2
"""
