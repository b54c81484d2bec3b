"""The text of /metrics, read back by Prometheus' own parser."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable
from types import SimpleNamespace

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tei_manager.telemetry.counters import Counters, add, settled
from tei_manager.telemetry.exposition import (
    InstanceFigures,
    manager_families,
    render,
    serve_worker,
    worker_families,
)


def _samples(text: bytes) -> dict[tuple[str, str], float]:
    return {
        (sample.name, ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def _read(families: Iterable[Metric]) -> dict[tuple[str, str], float]:
    return _samples(render(families))


def _counters() -> Counters:
    counters = Counters()
    counters.opened("a")
    counters.routed("a", "embed")
    counters.finished("embed", 0, 0.0001, "a")
    counters.finished("embed", 14, 70)
    counters.instance_in_flight = {"a": 3}
    counters.in_flight, counters.bytes_in, counters.rejected = 2, 300, {"memory": 4}
    counters.broke("client", "too_many_pings")
    return counters


def test_names_and_labels_are_those_of_the_contract() -> None:
    samples = _read(worker_families(_counters().to_json()))
    duration = "tei_grpc_multiplexer_request_duration_seconds"
    expected = {
        ("tei_grpc_pool_connections_total", "instance=a"): 1,
        ("tei_grpc_pool_connections_open", "instance=a"): 1,
        ("tei_grpc_pool_requests_total", "instance=a,method=embed"): 1,
        ("tei_grpc_multiplexer_responses_total", "code=0,method=embed"): 1,
        ("tei_grpc_multiplexer_responses_total", "code=14,method=embed"): 1,
        ("tei_grpc_multiplexer_requests_in_flight", ""): 2,
        ("tei_grpc_multiplexer_received_bytes_total", ""): 300,
        ("tei_grpc_multiplexer_rejected_total", "reason=memory"): 4,
        (
            "tei_grpc_multiplexer_connections_ended_total",
            "reason=too_many_pings,side=client",
        ): 1,
        (f"{duration}_bucket", "le=5e-05,method=embed"): 0,
        (f"{duration}_bucket", "le=0.0001,method=embed"): 1,
        (f"{duration}_bucket", "le=60.0,method=embed"): 1,
        (f"{duration}_bucket", "le=+Inf,method=embed"): 2,
        (f"{duration}_count", "method=embed"): 2,
        ("tei_grpc_pool_requests_in_flight", "instance=a"): 3,
        ("tei_grpc_pool_request_duration_seconds_bucket", "instance=a,le=0.0001"): 1,
        ("tei_grpc_pool_request_duration_seconds_count", "instance=a"): 1,
    }
    assert expected.items() <= samples.items()
    assert abs(samples[f"{duration}_sum", "method=embed"] - 70.0001) < 1e-9


def test_of_all_workers_certificates_the_one_that_expires_first_is_shown() -> None:
    early, late = (
        Counters(SimpleNamespace(expires=at, reloads={"taken": 1, "refused": 2}))
        for at in (1_000.0, 2_000.0)
    )
    samples = _read(worker_families(add(late.to_json(), early.to_json())))
    assert samples["tei_grpc_multiplexer_tls_certificate_expiry_timestamp_seconds", ""] == 1_000
    assert samples["tei_grpc_multiplexer_tls_reloads_total", "result=taken"] == 2
    assert samples["tei_grpc_multiplexer_tls_reloads_total", "result=refused"] == 4
    alone = _read(worker_families(add(settled(early.to_json()), late.to_json())))
    assert alone["tei_grpc_multiplexer_tls_certificate_expiry_timestamp_seconds", ""] == 2_000
    assert not [name for name, _ in _read(worker_families(_counters().to_json())) if "tls" in name]


def test_only_instances_that_exist_have_series() -> None:
    samples = _read(worker_families(_counters().to_json(), {"b"}))
    assert not [key for key in samples if "instance=a" in key[1]]


def test_worker_that_has_not_reported_yet_is_all_zeros() -> None:
    samples = _read(worker_families({}))
    assert samples["tei_grpc_multiplexer_requests_in_flight", ""] == 0


def test_managers_own_figures_have_the_names_of_the_contract() -> None:
    figures = [InstanceFigures("a", 'odd "model"\n', "failed", 1, 2, 3, 4)]
    samples = _read(manager_families(figures, 5, {"silent": 6}, {"a": 7, "gone": 8}))
    assert samples["tei_manager_instances_created_total", 'instance=a,model=odd "model"\n'] == 1
    assert samples["tei_manager_instances_deleted_total", "instance=a"] == 2
    assert samples["tei_manager_instance_restarts_total", "instance=a"] == 3
    assert samples["tei_manager_health_check_failures_total", "instance=a"] == 4
    assert samples["tei_manager_instance_status", "instance=a,status=failed"] == 1
    assert samples["tei_manager_instance_scrape_failures_total", "instance=a"] == 7
    assert ("tei_manager_instance_scrape_failures_total", "instance=gone") not in samples
    assert samples["tei_manager_instances_count", ""] == 1
    assert samples["tei_manager_workers", ""] == 5
    assert samples["tei_manager_workers_replaced_total", "reason=silent"] == 6


def test_worker_alone_answers_scrapes_with_what_it_has_counted_by_then() -> None:
    counters = _counters()
    host, port = serve_worker(counters, "127.0.0.1", 0)
    counters.in_flight = 9
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as answer:
        samples = _samples(answer.read())
    assert samples["tei_grpc_multiplexer_requests_in_flight", ""] == 9
