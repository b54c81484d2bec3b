"""Pages of many instances as one page, read back by Prometheus' own parser."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from te_metrics import COUNTERS, GAUGES, HISTOGRAMS, te_page

from tei_manager.engine.metrics import Metrics
from tei_manager.telemetry.federation import LONGEST_LINE, Federation

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def _engine_page() -> str:
    metrics = Metrics(512)
    metrics.request_started("single")
    metrics.batch_taken(1, 2, 3)
    return generate_latest(metrics.registry).decode()


def _federated(**pages: str) -> str:
    federation = Federation()
    for instance, page in pages.items():
        federation.add(instance, f"org/{instance}", page)
    return federation.page().decode()


def _samples(page: str) -> Samples:
    """All samples; two of the same name and labels are a mistake."""
    found = [
        ((sample.name, tuple(sorted(sample.labels.items()))), sample.value)
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def _of(instance: str, **labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted({"instance": instance, "model": f"org/{instance}", **labels}.items()))


def test_series_keep_the_names_that_tei_gives_and_say_whose_they_are() -> None:
    samples = _samples(_federated(a=te_page(3), b=te_page(4)))
    assert samples["te_request_count", _of("a", method="single")] == 3
    assert samples["te_request_count", _of("b", method="single")] == 4
    assert samples["te_queue_size", _of("a")] == 3
    assert {name for name, _ in samples} == {
        *COUNTERS, *GAUGES,
        *(f"{name}_{end}" for name in HISTOGRAMS for end in ("bucket", "sum", "count")),
    }  # fmt: skip


def test_name_is_explained_once_however_many_say_it() -> None:
    page = _federated(a=te_page(), b=_engine_page(), c=te_page())
    explained = Counter(re.findall(r"^# (HELP|TYPE) (\S+)", page, re.M))
    assert set(explained.values()) == {1}
    assert "# HELP te_request_count See TEI's documentation" in page, "the router says none"


def test_histogram_stays_whole() -> None:
    page = _federated(a=te_page(3), b=te_page(4))
    (family,) = [
        family
        for family in text_string_to_metric_families(page)
        if family.name == "te_request_duration"
    ]
    assert (family.type, len(family.samples)) == ("histogram", 10)


def test_page_that_was_federated_can_be_federated_again() -> None:
    once = _federated(a=te_page())
    again = _samples(_federated(b=once))
    assert again[
        "te_queue_size", _of("b", exported_instance="a", exported_model="org/a")
    ] == 7  # fmt: skip


def test_label_that_is_taken_gets_a_name_that_nobody_has() -> None:
    page = 'te_x{instance="i",exported_instance="e"} 1\n'
    labels = _of("a", exported_instance="e", exported_exported_instance="i")
    assert _samples(_federated(a=page)) == {("te_x", labels): 1}


def test_types_that_contradict_each_other_become_untyped_and_lose_nothing() -> None:
    histogram = '# TYPE te_x histogram\nte_x_bucket{le="+Inf"} 1\nte_x_sum 1\nte_x_count 1\n'
    page = _federated(a="# TYPE te_x gauge\nte_x 5\n", b=histogram)
    assert re.findall(r"^# TYPE te_x (\w+)$", page, re.M) == ["untyped"]
    assert {name for name, _ in _samples(page)} == {"te_x", "te_x_bucket", "te_x_sum", "te_x_count"}


def test_only_names_of_tei_pass() -> None:
    page = 'tei_manager_workers 9\nprocess_x 1\n# TYPE te_x gauge\nte_x 1\n{"te y"} 1\n'
    assert set(_samples(_federated(a=page))) == {("te_x", _of("a"))}


def test_values_of_labels_come_through_whatever_is_in_them() -> None:
    federation = Federation()
    federation.add("a", 'odd "model"\n\\', 'te_x{k="\\"\\n\\\\\u2028"} 1\n')
    ((_, labels),) = _samples(federation.page().decode())
    assert dict(labels) == {"instance": "a", "model": 'odd "model"\n\\', "k": '"\n\\\u2028'}


@pytest.mark.parametrize(
    "line",
    [
        "te_x",
        "te_x{ 1",
        "te_x{a=1} 1",
        'te_x{"a b"="c"} 1',
        f"te_x {10**400}",
        f'te_x{{a="{"b" * LONGEST_LINE}"}} 1',
    ],
)
def test_page_with_a_line_that_is_none_adds_nothing(line: str) -> None:
    federation = Federation()
    with pytest.raises(ValueError, match=r"text format|too long"):
        federation.add("a", "m", f"te_good 1\n{line}\n")
    assert federation.page() == b""


_NAMES = st.sampled_from(["te_x", "te_x_count", "te_x_bucket", "te_x_total", "te_y"])
_LINES = st.one_of(
    st.tuples(
        _NAMES,
        st.sampled_from(["counter", "gauge", "histogram", "summary", "untyped", "info", "x"]),
    ).map(lambda it: f"# TYPE {it[0]} {it[1]}"),
    st.tuples(_NAMES, st.integers(0, 99)).map(lambda it: f"{it[0]} {it[1]}"),
    st.tuples(_NAMES, st.text(max_size=9)).map(lambda it: f"{it[0]}{it[1]}"),
    st.text(max_size=20).map(lambda it: f"te_x{{{it}}} 1"),
    st.text(max_size=20),
)
_PAGES = st.lists(_LINES, max_size=12).map("\n".join)


@given(_PAGES, _PAGES)
def test_whatever_instances_say_the_page_is_valid_or_they_are_left_out(
    first: str, second: str
) -> None:
    federation = Federation()
    for instance, page in (("a", first), ("b", second)):
        try:
            federation.add(instance, "m", page)
        except ValueError:
            continue
    text = federation.page().decode()
    explained = Counter(re.findall(r"^# (HELP|TYPE) (\S+)", text, re.M))
    assert set(explained.values()) <= {1}
    for family in text_string_to_metric_families(text):
        assert family.name.startswith("te_")
        assert all({"instance", "model"} <= sample.labels.keys() for sample in family.samples)
