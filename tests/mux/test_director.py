"""Every routing rule of contracts.md 3.1, on tables without a network."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.grpc.proto.multiplexer.v1 import tei_multiplexer_pb2 as mux_pb2
from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.director import MAX_MEMO, Director
from tei_manager.routes import Route, RouteState, RouteTable

STATES = list(RouteState)


def target(**member: Any) -> bytes:
    return bytes(mux_pb2.Target(**member).SerializeToString())


def director(*routes: Route, load: dict[str, int] | None = None) -> Director:
    loads = load or {}
    made = Director(lambda route: loads.get(route.name, 0))
    made.apply(RouteTable(1, routes))
    return made


def running(name: str, ordinal: int, model: str = "m") -> Route:
    return Route(name, model, ordinal=ordinal, port=1)


def refused(made: Director, to: bytes | None) -> tuple[Code, str]:
    with pytest.raises(StatusError) as error:
        made.resolve(to)
    return error.value.code, error.value.message


def outcome(made: Director, to: bytes) -> Route | Code:
    try:
        return made.resolve(to)
    except StatusError as error:
        return error.code


def test_an_index_counts_running_instances_in_order_of_creation() -> None:
    stopped = Route("b", state=RouteState.STOPPED, ordinal=1)
    made = director(running("c", 2), stopped, running("a", 0))
    assert [made.resolve(target(index=n)).name for n in (0, 1)] == ["a", "c"]
    assert refused(made, target(index=2))[0] is Code.NOT_FOUND


def test_index_0_is_an_index_although_its_value_is_the_default() -> None:
    assert director(running("a", 0)).resolve(b"\x10\x00").name == "a"


def test_equal_instances_of_a_model_take_turns() -> None:
    made = director(*(running(name, n) for n, name in enumerate("abc")))
    turns = Counter(made.resolve(target(model="m")).name for _ in range(30))
    assert turns == {"a": 10, "b": 10, "c": 10}


def test_the_least_loaded_instance_of_a_model_is_taken() -> None:
    made = director(running("a", 0), running("b", 1), load={"a": 2, "b": 1})
    assert {made.resolve(target(model="m")).name for _ in range(9)} == {"b"}


def test_a_new_table_makes_the_memo_forget() -> None:
    made = director(running("a", 0))
    assert made.resolve(target(instance_name="a")).port == 1
    made.apply(RouteTable(2, [Route("a", port=2)]))
    assert made.resolve(target(instance_name="a")).port == 2
    made.apply(RouteTable(3))
    assert refused(made, target(instance_name="a"))[0] is Code.NOT_FOUND


def test_callers_cannot_make_the_memo_grow_without_end() -> None:
    made = director(running("a", 0))
    for number in range(2 * MAX_MEMO):
        made.resolve(target(instance_name="a") + b"\xa0\x06" + bytes((number % 128,)) * 1)
        made.resolve(b"\x7a\x02" + number.to_bytes(2, "big") + target(instance_name="a"))
    assert len(made._memo) <= MAX_MEMO


def test_a_refusal_is_not_remembered() -> None:
    made = director()
    assert refused(made, target(instance_name="a"))[0] is Code.NOT_FOUND
    assert not made._memo


@given(st.lists(st.sampled_from(STATES), max_size=6), st.integers(0, 2**32 - 1))
def test_only_running_instances_are_ever_resolved(states: list[RouteState], index: int) -> None:
    routes = [Route(f"n{n}", "m", state=s, ordinal=n) for n, s in enumerate(states)]
    made = director(*routes)
    alive = [route for route in routes if route.state is RouteState.RUNNING]
    for to in (
        target(index=index),
        target(model="m"),
        *(target(instance_name=r.name) for r in routes),
    ):
        assert outcome(made, to) in (*alive, Code.NOT_FOUND, Code.UNAVAILABLE)
    if index < len(alive):
        assert made.resolve(target(index=index)) is alive[index]


@given(st.binary(max_size=40))
def test_any_octets_resolve_or_are_refused(octets: bytes) -> None:
    only = running("a", 0)
    refusals = (Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.UNIMPLEMENTED)
    assert outcome(director(only), octets) in (only, *refusals)
