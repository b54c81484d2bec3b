"""Alerts and dashboard ask for nothing that is not there: they name what /metrics has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client.parser import text_string_to_metric_families
from te_metrics import te_page

from tei_manager.telemetry.counters import Counters
from tei_manager.telemetry.exposition import (
    InstanceFigures,
    manager_families,
    render,
    worker_families,
)
from tei_manager.telemetry.federation import Federation

DEPLOY = Path(__file__).parents[2] / "deploy"

OF_PROMETHEUS = {"machine", "job"}
"""Labels that the scrape gives every series (deploy/prometheus.yml)."""

NAME = re.compile(r"\b(?:te|tei)_[a-z_]+\b")
SELECTOR = re.compile(r"\b(\w+)\{([^}]*)\}")
MATCHER = re.compile(r"(\w+)(?:=~|!~|!=|=)\"[^\"]*\"")
GROUPING = re.compile(r"\b(?:by|without) \(([^)]*)\)")


class Certificate:
    """What workers count where there is TLS."""

    expires = 0.0

    def __init__(self) -> None:
        self.reloads = {"ok": 1}


def exposition() -> str:
    """A page on which every series is that there can be."""
    counters = Counters(Certificate())
    counters.opened("a")
    counters.routed("a", "embed")
    counters.finished("embed", 0, 0.1, "a")
    counters.instance_in_flight["a"] = 1
    counters.reject("unimplemented")
    counters.broke("client", "too_many_pings")
    figures = [InstanceFigures("a", "m", "running", 1, 1, 1, 1)]
    ours = [*worker_families(counters.to_json()), *manager_families(figures, 1, {"ended": 1}, {})]
    federation = Federation()
    federation.add("a", "m", te_page())
    return (render(ours) + federation.page()).decode()


def labels_by_name() -> dict[str, set[str]]:
    known: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(exposition()):
        for sample in family.samples:
            known.setdefault(sample.name, set()).update(sample.labels)
    return known


def alerts() -> dict[str, dict[str, Any]]:
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text("utf-8"))["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((DEPLOY / "grafana.json").read_text("utf-8"))["panels"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    for name, rule in alerts().items():
        yield name, rule["expr"]
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def unknown(query: str, known: dict[str, set[str]]) -> list[str]:
    """What a query names that no page has."""
    wrong = [name for name in NAME.findall(query) if name not in known]
    for name, matchers in SELECTOR.findall(query):
        allowed = known.get(name, set()) | OF_PROMETHEUS
        wrong += [f"{name}.{label}" for label in MATCHER.findall(matchers) if label not in allowed]
    labels = set().union(*(known.get(name, set()) for name in NAME.findall(query)))
    for grouping in GROUPING.findall(query):
        named = {label.strip() for label in grouping.split(",")}
        wrong += sorted(named - labels - OF_PROMETHEUS)
    return wrong


def unbalanced(query: str) -> str:
    """What is left of a query's brackets once every pair is gone."""
    rest = re.sub(r"\"[^\"]*\"|[^\"(){}\[\]]", "", query)
    while (shorter := re.sub(r"\(\)|\{\}|\[\]", "", rest)) != rest:
        rest = shorter
    return rest


@pytest.mark.parametrize(("where", "query"), list(queries()))
def test_query_names_only_what_metrics_has(where: str, query: str) -> None:
    assert NAME.search(query) or "up{" in query
    assert unknown(query, labels_by_name()) == []
    assert unbalanced(query) == ""


@pytest.mark.parametrize(
    "query",
    [
        "rate(tei_grpc_pool_request_total[5m])",
        'tei_grpc_pool_requests_total{code="0"}',
        "sum by (model) (tei_grpc_pool_requests_total)",
    ],
)
def test_query_that_names_something_else_is_found_out(query: str) -> None:
    assert unknown(query, labels_by_name())
    assert unbalanced(query[:-1] + "[")


def test_alerts_show_only_labels_that_their_query_leaves() -> None:
    known = labels_by_name()
    for name, rule in alerts().items():
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        names = NAME.findall(rule["expr"])
        left = set.intersection(*(known[each] for each in names)) if names else {"instance"}
        assert shown <= left, name


def test_scrape_config_names_the_alerts_and_keeps_our_labels() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text("utf-8"))
    assert [(DEPLOY / name).is_file() for name in config["rule_files"]] == [True]
    (job,) = config["scrape_configs"]
    assert job["honor_labels"] is True
    assert f'up{{job="{job["job_name"]}"}}' in alerts()["TeiManagerDown"]["expr"]


def test_panels_have_places_of_their_own() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (place["x"] + column, place["y"] + line)
            for column in range(place["w"])
            for line in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
