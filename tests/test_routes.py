"""The route table: what it looks up, and that its JSON form is the whole of it."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.routes import Route, RouteState, RouteTable

NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
ROUTES = st.builds(
    Route,
    name=NAMES,
    model=st.sampled_from(["", "m", "n"]),
    host=st.sampled_from(["127.0.0.1", "::1"]),
    port=st.integers(0, 65535),
    state=st.sampled_from(RouteState),
    ordinal=st.integers(0, 99),
    key=NAMES,
    api_key=NAMES,
)
TABLES = st.lists(ROUTES, max_size=6, unique_by=lambda route: route.name)


@given(TABLES, st.integers(0, 2**53), NAMES)
def test_json_form_is_one_line_and_holds_everything(
    routes: list[Route], version: int, default: str
) -> None:
    table = RouteTable(version, routes, default)
    line = table.to_json()
    assert "\n" not in line
    again = RouteTable.from_json(line)
    assert (again.version, again.routes, again.default_instance) == (version, table.routes, default)


@given(TABLES)
def test_only_running_routes_take_calls_in_order_of_creation(routes: list[Route]) -> None:
    table = RouteTable(1, routes)
    assert [r.ordinal for r in table.running] == sorted(r.ordinal for r in table.running)
    assert set(table.running) == {r for r in routes if r.state is RouteState.RUNNING}
    assert set(table.models) == {r.model for r in routes} - {""}


def test_two_routes_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="share a name"):
        RouteTable(1, [Route("a"), Route("a")])


@pytest.mark.parametrize(
    "line",
    ["", "{}", "[]", "null", '{"version": 1, "default": "", "routes": [{}]}',
     '{"version": 1, "default": "", "routes": [{"name": "a", "state": "odd"}]}',
     '{"version": 1, "default": "", "routes": [{"name": "a", "state": "running", "x": 1}]}'],
)  # fmt: skip
def test_line_that_is_no_table_is_an_error_and_nothing_else(line: str) -> None:
    with pytest.raises(ValueError):
        RouteTable.from_json(line)


def test_address_has_brackets_around_ipv6_and_repr_hides_the_credential() -> None:
    route = Route("a", host="::1", port=80, api_key="secret")
    assert route.address == "[::1]:80"
    assert "secret" not in repr(route)


def test_line_of_a_table_takes_a_few_steps_for_each_route() -> None:
    """Counted, not timed: a manager writes the whole table whenever one of its routes changes."""
    steps, count = 0, 100
    table = RouteTable(1, [Route(f"r{number}", "m", ordinal=number) for number in range(count)])

    def step(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal steps
        steps += event in ("call", "c_call")

    sys.setprofile(step)
    try:
        table.to_json()
    finally:
        sys.setprofile(None)
    assert steps < 10 * count
