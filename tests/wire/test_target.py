from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.wire.fields import MalformedMessage
from tei_manager.wire.target import Target, TargetKind, read_target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"", None),
        (b"\x0a\x06minilm", Target(TargetKind.NAME, "minilm")),
        (b"\x0a\x00", Target(TargetKind.NAME, "")),
        (b"\x10\x05", Target(TargetKind.INDEX, 5)),
        (b"\x18\x05", Target(TargetKind.INDEX, 5)),
        (b"\x10\x85\x80\x80\x80\x10", Target(TargetKind.INDEX, 5)),
        (b"\x12\x01m", Target(TargetKind.MODEL, "m")),
        (b"\x1a\x01m", Target(TargetKind.MODEL, "m")),
        (b"\x0a\x01a\x10\x05", Target(TargetKind.INDEX, 5)),
        (b"\x10\x05\x0a\x01a", Target(TargetKind.NAME, "a")),
        (b"\x0a\x01a\x22\x01b", Target(TargetKind.NAME, "a")),
        (b"\x22\x01b", Target(TargetKind.UNKNOWN)),
        (b"\x08\x01", Target(TargetKind.UNKNOWN)),
    ],
)
def test_targets_mean_their_last_member(target: bytes, expected: Target | None) -> None:
    assert read_target(target) == expected


@pytest.mark.parametrize(
    "target", [b"\x0a", b"\x0a\x05ab", b"\x0a\x01\xff", b"\x12\x01\xff\x10\x01"]
)
def test_broken_targets_are_malformed(target: bytes) -> None:
    with pytest.raises(MalformedMessage):
        read_target(target)


@given(st.binary(max_size=40))
def test_arbitrary_targets_raise_nothing_else(target: bytes) -> None:
    try:
        read_target(target)
    except MalformedMessage:
        return
