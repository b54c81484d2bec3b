"""What a question to reflection costs when it is asked often: one read can have thousands."""

from __future__ import annotations

from typing import Any

import pytest
from grpc_reflection.v1alpha import reflection_pb2

from benchmarks.opcodes import _counting
from tei_manager.grpc.methods import MULTIPLEXER
from tei_manager.mux.reflection import _answer

QUESTIONS = {
    "a symbol": {"file_containing_symbol": MULTIPLEXER},
    "a file": {"file_by_filename": "grpc/health/v1/health.proto"},
    "all services": {"list_services": ""},
}


@pytest.mark.parametrize("question", QUESTIONS.values(), ids=QUESTIONS)
def test_a_question_that_is_asked_again_is_not_worked_out_again(question: dict[str, Any]) -> None:
    request = reflection_pb2.ServerReflectionRequest(**question)
    first = _answer(request)
    with _counting() as found:
        assert _answer(request) == first
    assert found.total() < 120
