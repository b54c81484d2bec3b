"""Libraries that share no code see the same of each other with the switch in between as without."""

from __future__ import annotations

import pytest

import matrix

PAIRS = [("grpcio", "aio"), ("aio", "grpclib"), ("grpclib", "grpcio")]
"""Each library once as client and once as server; `make conformance` plays all pairs of five."""


@pytest.mark.parametrize(("client", "server"), PAIRS)
def test_every_case_is_seen_through_the_switch_as_directly(client: str, server: str) -> None:
    cells = matrix.matrix([client], [server])
    assert len(cells) == matrix.CASES
    assert [cell for cell in cells if not cell.alike] == []
    ignorant = {"compressed"} if server == "grpclib" else set()
    assert {cell.case for cell in cells if cell.fails} == ignorant


def test_a_difference_is_told_and_is_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [
        matrix.Cell("a", "b", f"case {n}", {"code": 0}, {"code": 0}) for n in range(matrix.CASES)
    ]
    assert matrix.report(cells, ["a"], ["b"])
    for through in ({"code": 4}, None):
        assert not matrix.report([*cells[1:], cells[0]._replace(through=through)], ["a"], ["b"])
        assert f"a at b, case 0: {{'code': 0}} | {through}" in capsys.readouterr().out
    assert not matrix.report(cells[1:], ["a"], ["b"])
