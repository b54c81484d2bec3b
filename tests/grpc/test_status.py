"""Statuses as the protocol has them: numbers, the coding of messages, what peers mean."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tei_manager import errors
from tei_manager.grpc.status import (
    MAX_MESSAGE_BYTES,
    Code,
    StatusError,
    decode_message,
    encode_message,
    from_http,
    from_reset,
)

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
BROKEN_ESCAPES = [b"%", b"%%", b"%4", b"%zz", b"a%", b"%+1", b"% 1", b"%1_", b"%\xc3\xa9", b"%0x"]


def test_codes_have_the_numbers_of_grpc() -> None:
    assert {code.name: code.value for code in Code} == {
        status.name: status.value[0] for status in grpc.StatusCode
    }


def test_every_error_of_ours_carries_a_code_that_is_not_ok() -> None:
    kinds: set[type[errors.TeiManagerError]] = {
        errors.TeiManagerError,
        *errors.TeiManagerError.__subclasses__(),
    }
    assert len(kinds) > 10
    for kind in kinds:
        assert Code(kind.grpc_status) is not Code.OK


def test_the_table_at_the_top_of_errors_is_what_the_classes_say() -> None:
    rows = [line.split() for line in (errors.__doc__ or "").splitlines() if "─ " in line]
    written = {row[1]: tuple(row[2:6]) for row in rows}
    assert written == {
        kind.__name__: (
            kind.code,
            str(kind.http_status),
            str(kind.grpc_status),
            Code(kind.grpc_status).name,
        )
        for kind in errors.TeiManagerError.__subclasses__()
        if kind.__module__ == errors.__name__  # others end a command, and meet no protocol
    }


def test_a_status_error_says_its_code_and_its_sentence() -> None:
    error = StatusError(Code.NOT_FOUND, "Instance 'x' not found")
    assert (error.code, error.message) == (5, "Instance 'x' not found")
    assert str(error) == "NOT_FOUND: Instance 'x' not found"


@given(TEXTS.filter(lambda text: len(text.encode()) <= MAX_MESSAGE_BYTES))
@example("100 % naïve\n日本語 🙂")
def test_a_message_that_fits_comes_back_as_it_went(text: str) -> None:
    assert decode_message(encode_message(text)) == text


@given(st.text())
def test_an_encoded_message_is_printable_ascii_whatever_the_text_holds(text: str) -> None:
    assert all(0x20 <= byte <= 0x7E for byte in encode_message(text))


@given(TEXTS)
@example("é" * MAX_MESSAGE_BYTES)
@example("x" + "é" * MAX_MESSAGE_BYTES)
@example("🙂" * MAX_MESSAGE_BYTES)
def test_a_long_message_is_cut_at_the_limit_and_only_its_end_is_lost(text: str) -> None:
    decoded = decode_message(encode_message(text))
    assert len(encode_message(text)) <= 3 * MAX_MESSAGE_BYTES
    assert text.startswith(decoded.removesuffix("\ufffd"))
    assert len(text.encode()) <= MAX_MESSAGE_BYTES or len(decoded.encode()) > MAX_MESSAGE_BYTES - 4


@given(st.binary())
def test_no_bytes_of_a_peer_are_an_error(value: bytes) -> None:
    assert isinstance(decode_message(value), str)


@pytest.mark.parametrize("value", BROKEN_ESCAPES)
def test_a_broken_escape_stays_as_it_is(value: bytes) -> None:
    assert decode_message(value) == value.decode()


@pytest.mark.parametrize(("value", "text"), [(b"%41%42c", "ABc"), (b"%c3%A9", "é"), (b"%25", "%")])
def test_escapes_are_read_in_either_case(value: bytes, text: str) -> None:
    assert decode_message(value) == text


@pytest.mark.parametrize(
    ("error_code", "code"),
    [
        (0x0, Code.INTERNAL),  # NO_ERROR
        (0x1, Code.INTERNAL),  # PROTOCOL_ERROR
        (0x7, Code.UNAVAILABLE),  # REFUSED_STREAM
        (0x8, Code.CANCELLED),  # CANCEL
        (0xB, Code.RESOURCE_EXHAUSTED),  # ENHANCE_YOUR_CALM
        (0xC, Code.PERMISSION_DENIED),  # INADEQUATE_SECURITY
        (0xFFFF_FFFF, Code.INTERNAL),  # one that nobody has defined
    ],
)
def test_a_reset_means_the_status_that_the_protocol_says(error_code: int, code: Code) -> None:
    assert from_reset(error_code) is code


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, Code.INTERNAL),
        (401, Code.UNAUTHENTICATED),
        (403, Code.PERMISSION_DENIED),
        (404, Code.UNIMPLEMENTED),
        (429, Code.UNAVAILABLE),
        (502, Code.UNAVAILABLE),
        (503, Code.UNAVAILABLE),
        (504, Code.UNAVAILABLE),
        (200, Code.UNKNOWN),
        (500, Code.UNKNOWN),
    ],
)
def test_an_http_status_means_the_status_that_grpc_says(status: int, code: Code) -> None:
    assert from_http(status) is code
