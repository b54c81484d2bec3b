"""The fuzz targets on their seeds and on some mutations of them; `make long` goes on from there."""

from __future__ import annotations

import time
from unittest.mock import patch

import pytest
from corpus import mutations, seeds
from memory_loop import Wire
from targets import CPU_SECONDS, TARGETS, TooCostly, run_measured, run_timed

MUTATIONS = 1000
"""For each target: a second or two in all, and always the same ones. (Files cost more.)"""


@pytest.mark.parametrize("target", TARGETS)
def test_no_seed_breaks_a_rule_or_costs_more_memory_than_it_may(target: str) -> None:
    for octets in (b"", *seeds(target)):
        run_measured(target, octets)


@pytest.mark.parametrize("target", TARGETS)
def test_no_mutation_breaks_a_rule_or_costs_more_time_than_it_may(target: str) -> None:
    for octets in mutations(target, MUTATIONS // (4 if target == "Z8" else 1)):
        run_timed(target, octets)


def test_the_first_seed_of_the_multiplexer_is_a_call_and_its_answer() -> None:
    taken: list[bytes] = []

    class Watched(Wire):
        def take(self, most: int = 1 << 30) -> bytes:
            taken.append(super().take(most))
            return taken[-1]

    with patch("memory_loop.Wire", Watched):
        TARGETS["Z10"](seeds("Z10")[0])
    assert any(b"grpc-status\x010" in octets for octets in taken)


def test_what_costs_too_much_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def burn(_octets: bytes) -> None:
        begun = time.process_time()
        while time.process_time() <= begun + CPU_SECONDS:
            pass

    monkeypatch.setitem(TARGETS, "Z1", burn)
    with pytest.raises(TooCostly, match="ms of CPU"):
        run_timed("Z1", b"")
    monkeypatch.setitem(TARGETS, "Z1", lambda _octets: len(bytearray(17 << 20)) and None)
    with pytest.raises(TooCostly, match="held 17 MiB"):
        run_measured("Z1", b"")
