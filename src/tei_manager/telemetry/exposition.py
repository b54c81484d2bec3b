"""The metric table: how reports and the manager's own figures read in Prometheus' text format.

Names, labels and meanings are those of contracts.md section 4. Values are collected at each
scrape from plain data, so that a deleted instance leaves no series behind.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from tei_manager import __version__
from tei_manager.telemetry.counters import BUCKETS, Counters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of what `render` returns."""

_PLAIN_GAUGES = (
    ("in_flight", "tei_grpc_multiplexer_requests_in_flight", "Calls that are open now."),
    ("client_connections", "tei_grpc_multiplexer_client_connections", "Clients connected now."),
    ("queued", "tei_grpc_multiplexer_requests_queued", "Calls waiting for a stream now."),
)
_PLAIN_COUNTERS = (
    ("bytes_in", "tei_grpc_multiplexer_received_bytes", "Bytes received from clients."),
    ("bytes_out", "tei_grpc_multiplexer_sent_bytes", "Bytes sent to clients."),
)


@dataclass(frozen=True, slots=True)
class InstanceFigures:
    """What the manager counts for one instance that exists.

    Args:
        name: Label ``instance``.
        model: Label ``model``.
        status: As REST shows it.
        created: How often an instance of this name was created since the manager started.
        deleted: How often one of this name was deleted.
        restarts: How often it was started again.
        probe_failures: Probes without an answer since the manager started.
    """

    name: str
    model: str
    status: str
    created: int
    deleted: int
    restarts: int
    probe_failures: int


def render(families: Iterable[Metric]) -> bytes:
    """Return the families as Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(lambda: families))
    return generate_latest(registry)


class _Given(Collector):
    """Hands a registry what a function returns at each scrape."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families()

    def describe(self) -> Iterable[Metric]:
        return ()


def serve_worker(counters: Counters, host: str, port: int) -> tuple[str, int]:
    """Answer scrapes with the counters of this process, from a thread, until the process ends.

    Args:
        counters: Read at each scrape.
        host: Address to listen on.
        port: 0 takes a free one.

    Returns:
        The address that is listened on.

    Raises:
        OSError: It cannot be bound.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Given(lambda: worker_families(counters.to_json())))
    server, _ = start_http_server(port, host, registry)
    bound_host, bound_port = server.server_address[:2]
    return str(bound_host), int(bound_port)


def worker_families(
    report: dict[str, Any], instances: Container[str] | None = None
) -> Iterator[Metric]:
    """Yield what workers counted.

    Args:
        report: Of one worker, or the sum of all (`counters.add`).
        instances: Only these get series; ``None`` for every instance in the report.
    """
    yield from _pool(report, instances)
    yield _durations(report)
    yield _responses(report)
    for key, name, text in _PLAIN_GAUGES:
        yield GaugeMetricFamily(name, text, value=report.get(key, 0))
    for key, name, text in _PLAIN_COUNTERS:
        yield CounterMetricFamily(name, text, value=report.get(key, 0))
    rejected = CounterMetricFamily(
        "tei_grpc_multiplexer_rejected", "Calls and connections refused.", labels=["reason"]
    )
    for reason, count in sorted(report.get("rejected", {}).items()):
        rejected.add_metric([reason], count)
    yield rejected
    broken = CounterMetricFamily(
        "tei_grpc_multiplexer_connections_ended",
        "Connections ended by us: a limit that was passed, or HTTP/2 that was broken.",
        labels=["side", "reason"],
    )
    for side, reasons in sorted(report.get("broken", {}).items()):
        for reason, count in sorted(reasons.items()):
            broken.add_metric([side, reason], count)
    yield broken
    yield from certificate_families(
        "tei_grpc_multiplexer", report.get("tls_expires"), report.get("tls_reloads", {})
    )


def certificate_families(
    prefix: str, expires: float | None, reloads: Mapping[str, int]
) -> Iterator[Metric]:
    """Yield what is known of the certificate of a port; nothing if it has none.

    Args:
        prefix: Of the names.
        expires: When, in seconds since 1970.
        reloads: How often changed files were taken up, by result.
    """
    if expires is None:
        return
    name = f"{prefix}_tls_certificate_expiry_timestamp_seconds"
    yield GaugeMetricFamily(name, "When the server's certificate expires.", value=expires)
    counted = CounterMetricFamily(
        f"{prefix}_tls_reloads", "Changed certificate files, by what became of them.",
        labels=["result"],
    )  # fmt: skip
    for result, count in sorted(reloads.items()):
        counted.add_metric([result], count)
    yield counted


def _pool(report: dict[str, Any], instances: Container[str] | None) -> Iterator[Metric]:
    def known(key: str) -> list[tuple[str, Any]]:
        items = sorted(report.get(key, {}).items())
        return [(name, value) for name, value in items if instances is None or name in instances]

    opened = CounterMetricFamily(
        "tei_grpc_pool_connections", "Connections made to an instance.", labels=["instance"]
    )
    for name, count in known("connections"):
        opened.add_metric([name], count)
    present = GaugeMetricFamily(
        "tei_grpc_pool_connections_open", "Connections open to an instance.", labels=["instance"]
    )
    for name, count in known("connections_open"):
        present.add_metric([name], count)
    requests = CounterMetricFamily(
        "tei_grpc_pool_requests", "Calls sent to an instance.", labels=["instance", "method"]
    )
    for name, labels in known("requests"):
        for label, count in sorted(labels.items()):
            requests.add_metric([name, label], count)
    in_flight = GaugeMetricFamily(
        "tei_grpc_pool_requests_in_flight", "Calls that an instance has now.", labels=["instance"]
    )
    for name, count in known("instance_in_flight"):
        in_flight.add_metric([name], count)
    durations = HistogramMetricFamily(
        "tei_grpc_pool_request_duration_seconds",
        "The same as for methods, of the calls that were sent to an instance.",
        labels=["instance"],
    )
    for name, counts in known("instance_durations"):
        seconds = report["instance_seconds"][name]
        durations.add_metric([name], _cumulative(counts), sum_value=seconds)
    yield from (opened, present, requests, in_flight, durations)


def _durations(report: dict[str, Any]) -> Metric:
    family = HistogramMetricFamily(
        "tei_grpc_multiplexer_request_duration_seconds",
        "From a call's HEADERS to the last frame queued for the client.",
        labels=["method"],
    )
    for label, counts in sorted(report.get("durations", {}).items()):
        family.add_metric([label], _cumulative(counts), sum_value=report["seconds"][label])
    return family


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    """Return the buckets of a histogram as Prometheus has them: each with all below it."""
    bounds = [*(repr(bound) for bound in BUCKETS), "+Inf"]
    return list(zip(bounds, accumulate(counts), strict=True))


def _responses(report: dict[str, Any]) -> Metric:
    family = CounterMetricFamily(
        "tei_grpc_multiplexer_responses",
        "Calls that are over, by the number of their gRPC status.",
        labels=["method", "code"],
    )
    for label, codes in sorted(report.get("responses", {}).items()):
        for code, count in sorted(codes.items(), key=lambda item: int(item[0])):
            family.add_metric([label, code], count)
    return family


def manager_families(
    figures: Iterable[InstanceFigures],
    workers: int,
    replaced: Mapping[str, int],
    unread: Mapping[str, int],
) -> Iterator[Metric]:
    """Yield what the manager knows itself.

    Args:
        figures: One for each instance that exists.
        workers: How many multiplexer workers serve now.
        replaced: How many were replaced since the manager started, by reason.
        unread: How often an instance's own metrics could not be read, by instance.
    """
    rows = list(figures)
    created = CounterMetricFamily(
        "tei_manager_instances_created", "Instances created.", labels=["instance", "model"]
    )
    for row in rows:
        created.add_metric([row.name, row.model], row.created)
    yield created
    for name, text, attribute in (
        ("instances_deleted", "Earlier instances of this name deleted.", "deleted"),
        ("instance_restarts", "Starts after the first one.", "restarts"),
        ("health_check_failures", "Probes that got no answer.", "probe_failures"),
    ):
        family = CounterMetricFamily(f"tei_manager_{name}", text, labels=["instance"])
        for row in rows:
            family.add_metric([row.name], getattr(row, attribute))
        yield family
    present = GaugeMetricFamily(
        "tei_manager_instance_status",
        "1 for the status that the instance is in.",
        labels=["instance", "status"],
    )
    for row in rows:
        present.add_metric([row.name, row.status], 1)
    yield present
    failed = CounterMetricFamily(
        "tei_manager_instance_scrape_failures",
        "Scrapes in which an instance's own metrics could not be read.",
        labels=["instance"],
    )
    for row in rows:
        failed.add_metric([row.name], unread.get(row.name, 0))
    yield failed
    yield GaugeMetricFamily("tei_manager_instances_count", "Instances.", value=len(rows))
    yield GaugeMetricFamily("tei_manager_workers", "Workers that serve.", value=workers)
    lost = CounterMetricFamily(
        "tei_manager_workers_replaced", "Workers replaced since the start.", labels=["reason"]
    )
    for reason, count in replaced.items():
        lost.add_metric([reason], count)
    yield lost
    build = GaugeMetricFamily("tei_manager_build_info", "Always 1.", labels=["version"])
    build.add_metric([__version__], 1)
    yield build
