"""nginx, if it is installed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.peer import Peer, core_for, installed
from benchmarks.peers.tls import Tls
from benchmarks.processes import children_of, free_port, running


@contextmanager
def nginx(backend: str, workers: int = 1, tls: Tls | None = None) -> Iterator[Peer]:
    """Run nginx with so many worker processes, which are what is measured."""
    binary = installed("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nginx.conf"
        path.write_text(_nginx_config(port, backend, folder, workers, tls))
        argv = [binary, "-c", str(path), "-p", folder, "-e", f"{folder}/error.log"]
        with running(argv, port, core_for(workers)) as pid:
            yield Peer("nginx", port, children_of(pid, workers), tls)


def _nginx_config(port: int, backend: str, folder: str, workers: int, tls: Tls | None) -> str:
    return f"""
daemon off; worker_processes {workers}; pid {folder}/nginx.pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder};
  client_max_body_size 0;
  upstream tei {{ server {backend}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} {_how(tls)} location / {{ grpc_pass grpc://tei; }} }}
}}
"""


def _how(tls: Tls | None) -> str:
    """Return what stands behind the address that nginx listens on."""
    if tls is None:
        return "http2;"
    files = f"ssl_certificate {tls.cert}; ssl_certificate_key {tls.key};"
    return f"ssl http2; ssl_protocols TLSv1.3; {files}"
