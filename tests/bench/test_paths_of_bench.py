"""Both ways make the calls of a case, all of them, and a failed one gives no time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from both_services import NAME, BothServices, both_services

from tei_manager.bench.cases import Case, cases
from tei_manager.bench.paths import BenchmarkFailed, Path


@pytest.fixture
def server() -> Iterator[BothServices]:
    with both_services() as services:
        yield services


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_a_case_makes_all_of_its_calls_over_either_way(server: BothServices, case: object) -> None:
    (case,) = [each for each in cases() if each is case]
    method = "EmbedStream" if case.kind == "stream" else "Embed"
    with Path("d", server.address) as direct, Path("t", server.address, NAME) as through:
        assert direct.prepare(case)() > 0
        assert server.seen == {f"direct {method}": len(case.texts)}
        assert through.prepare(case)() > 0
    assert server.seen[f"through {method}"] == len(case.texts)


@pytest.mark.parametrize("case", [cases()[0], cases()[4], cases()[-1]], ids=lambda case: case.kind)
def test_a_token_goes_with_each_call(server: BothServices, case: Case) -> None:
    with Path("through", server.address, NAME, token="a token") as path:
        path.prepare(case)()
    assert server.authorizations == ["Bearer a token"] * server.seen.total()


def test_an_unknown_instance_is_a_sentence_with_the_status(server: BothServices) -> None:
    with Path("through", server.address, "other") as path:
        run = path.prepare(cases()[0])
        with pytest.raises(BenchmarkFailed, match=r"\(through\) failed: .*not found \(NOT_FOUND\)"):
            run()


def test_an_answer_without_numbers_is_no_answer(server: BothServices) -> None:
    server.empty = True
    with Path("direct", server.address) as path:
        run = path.prepare(cases()[-1])
        with pytest.raises(BenchmarkFailed, match="gave 0 embeddings for 20 texts"):
            run()
