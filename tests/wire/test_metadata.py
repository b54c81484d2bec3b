"""Names, values, base64 and time-outs: what is taken, and what never reaches a backend."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.grpc.status import Code, StatusError
from tei_manager.wire import metadata
from tei_manager.wire.metadata import (
    format_timeout,
    parse_timeout,
    valid_binary,
    valid_name,
    valid_value,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b"1H", 3600.0), (b"2M", 120.0), (b"3S", 3.0), (b"300m", 0.3), (b"5u", 5e-6),
        (b"7n", 7e-9), (b"0S", 0.0), (b"99999999H", 99999999 * 3600.0), (b"00000001S", 1.0),
    ],
)  # fmt: skip
def test_timeouts_mean_seconds(text: bytes, seconds: float) -> None:
    assert parse_timeout(text) == seconds


@pytest.mark.parametrize(
    "text",
    [b"", b"S", b"5", b"5s", b"5h", b"123456789S", b"-1S", b"+1S", b"1.5S", b" 1S", b"1S ", b"1S\n",
     "٣S".encode(), b"1SS", b"\xff"],
)  # fmt: skip
def test_malformed_timeouts_are_the_callers_mistake(text: bytes) -> None:
    with pytest.raises(StatusError) as caught:
        parse_timeout(text)
    assert caught.value.code is Code.INVALID_ARGUMENT


@given(st.floats(min_value=1e-9, allow_infinity=True))
def test_a_forwarded_timeout_is_never_longer_and_loses_little(seconds: float) -> None:
    text = format_timeout(seconds)
    assert len(text) <= 9
    assert parse_timeout(text) <= seconds
    if seconds < 99_999_999:  # below that a second is the coarsest unit
        assert parse_timeout(text) >= seconds * (1 - 1e-4) - 1e-9


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-10])
def test_what_is_past_becomes_the_shortest_timeout(seconds: float) -> None:
    assert format_timeout(seconds) == b"1n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.09, b"90000000n"), (0.3, b"300000u"), (30.0, b"30000000u"), (100.0, b"100000m"),
        (1e5, b"100000S"), (1e8, b"1666666M"), (1e10, b"2777777H"), (1e300, b"99999999H"),
    ],
)  # fmt: skip
def test_the_finest_unit_that_fits_is_chosen(seconds: float, text: bytes) -> None:
    assert format_timeout(seconds) == text


@pytest.mark.parametrize("name", [b"x-a", b"grpc-trace-bin", b"0", b"a_b.c~d", b"x" * 200])
def test_names_in_lower_case_are_taken_once_and_again(name: bytes) -> None:
    assert valid_name(name)
    assert valid_name(name)


@pytest.mark.parametrize(
    "name", [b"", b"X-A", b"a b", b"a:b", b":path", b"a\0", b"a\n", b"\xe9", b"a,b", b"a\x7f"]
)
def test_other_names_are_refused(name: bytes) -> None:
    assert not valid_name(name)


def test_remembered_names_are_bounded() -> None:
    for number in range(5000):
        assert valid_name(b"x-%d" % number)
    assert len(metadata._valid_names) <= 1024


@given(st.binary(max_size=30))
def test_values_hold_no_control_octets_and_no_white_space_around(value: bytes) -> None:
    controls = any((octet < 0x20 and octet != 9) or octet == 0x7F for octet in value)
    assert valid_value(value) is (not controls and value.strip(b" \t") == value)


def test_values_may_be_empty_and_may_hold_tabs_spaces_and_latin_1() -> None:
    assert valid_value(b"")
    assert valid_value(b"a \t b")
    assert valid_value(b"gr\xfc\xdfe")


@given(st.lists(st.tuples(st.binary(max_size=20), st.booleans()), min_size=1, max_size=4))
def test_base64_is_taken_padded_or_not_and_in_lists(parts: list[tuple[bytes, bool]]) -> None:
    texts = [base64.b64encode(data) for data, _ in parts]
    items = [
        text if pad else text.rstrip(b"=") for text, (_, pad) in zip(texts, parts, strict=True)
    ]
    assert valid_binary(b",".join(items))


@given(st.text("AQgw+/x=,", max_size=12))
def test_what_base64_does_not_decode_strictly_is_refused(text: str) -> None:
    def strict(item: str) -> bool:
        padded = item if "=" in item else item + "=" * (-len(item) % 4)
        try:
            return base64.b64encode(base64.b64decode(padded, validate=True)).decode() == padded
        except ValueError:
            return False

    assert valid_binary(text.encode()) is all(strict(item) for item in text.split(","))


@pytest.mark.parametrize(
    "value", [b"a", b"ab-_", b"a b=", b"abcd\n", b"ab=", b"abc==", b"=", b"ab"]
)
def test_broken_base64_is_refused(value: bytes) -> None:
    assert not valid_binary(value)


def test_credentials_and_targets_stay_behind() -> None:
    assert {b"authorization", b"x-tei-instance", b"x-tei-model", b"x-tei-index"} <= (
        metadata.DROPPED_FROM_REQUESTS
    )
    assert b"authorization" in metadata.DROPPED_FROM_RESPONSES
    assert not metadata.CONNECTION_SPECIFIC & metadata.DROPPED_FROM_REQUESTS
