"""The error tree: what stands at the top of its file is what the classes say."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from tei_manager import errors
from tei_manager.errors import InstanceExists, InstanceNotFound, InvalidSettings, TeiManagerError
from tei_manager.grpc.status import Code


def _tree(kind: type[TeiManagerError] = TeiManagerError) -> Iterator[type[TeiManagerError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _tree(child)


def test_table_in_the_docstring_is_the_truth() -> None:
    row = re.compile(r"[├└]─ (\w+) +(\w+) +(\d+) +(\d+) (\w+)")
    written = {found[0]: found[1:] for found in row.findall(errors.__doc__ or "")}
    real = {
        kind.__name__: (
            kind.code,
            str(kind.http_status),
            str(kind.grpc_status),
            Code(kind.grpc_status).name,
        )
        for kind in _tree()
    }
    assert written == real


@pytest.mark.parametrize("kind", list(_tree()), ids=lambda kind: kind.__name__)
def test_statuses_are_errors_of_both_protocols(kind: type[TeiManagerError]) -> None:
    assert HTTPStatus(kind.http_status).value >= 400
    assert Code(kind.grpc_status) is not Code.OK
    assert re.fullmatch(r"[A-Z_]+", kind.code)


def test_sentences_name_what_they_are_about() -> None:
    assert str(InstanceNotFound("x")) == "Instance 'x' not found"
    assert "delete it first" in str(InstanceExists("x"))
    assert str(InvalidSettings(["one", "two"])) == "one\ntwo"
