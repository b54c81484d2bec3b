"""The manager's log: one document or one line a record, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tei_manager.telemetry.logs import ConsoleFormatter, JsonFormatter, configure

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)
"""Control characters and halves of characters among them."""

VALUES = st.recursive(
    TEXTS | st.floats() | st.integers() | st.none() | st.booleans() | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.integers(), inner, max_size=2),
    max_leaves=4,
)


def _record(message: str, error: Exception | None = None, **extra: Any) -> logging.LogRecord:
    raised = None
    if error is not None:
        try:
            raise error
        except Exception:
            raised = sys.exc_info()
    record = logging.LogRecord("test", logging.INFO, "", 0, "%s", (message,), raised)
    vars(record).update(extra)
    return record


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield logging.getLogger("test")
    for handler in root.handlers:
        handler.close()
    root.handlers[:], root.level = handlers, level


def test_json_has_fields_of_its_own_and_those_given(logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logger.warning("two\nlines %s", "here", extra={"instance": "a"})
    logger.debug("not this")
    (line,) = stream.getvalue().splitlines()
    document = json.loads(line)
    assert document["message"] == "two\nlines here"
    assert (document["level"], document["logger"]) == ("warning", "test")
    assert document["instance"] == "a"


def test_message_cannot_forge_a_line_on_the_console(logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure("info", "console", stream)
    logger.info("real\n12:00:00 error   forged")
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("format_name", ["console", "json"])
def test_traceback_is_kept(logger: logging.Logger, format_name: str) -> None:
    stream = io.StringIO()
    configure("info", format_name, stream)  # type: ignore[arg-type]
    try:
        raise RuntimeError("cause")
    except RuntimeError:
        logger.exception("it failed")
    assert "RuntimeError: cause" in stream.getvalue()


def test_stream_that_is_no_terminal_gets_json(logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure(stream=stream)
    logger.info("x")
    assert json.loads(stream.getvalue())["message"] == "x"


@given(TEXTS, TEXTS, TEXTS, VALUES)
def test_whatever_is_logged_the_line_is_json_of_printable_ascii(
    message: str, error: str, key: str, value: Any
) -> None:
    line = JsonFormatter().format(_record(message, RuntimeError(error), **{f"x{key}": value}))
    assert line.isascii()
    assert line.isprintable()
    document = json.loads(line, parse_constant=_refuse)
    assert {"timestamp", "level", "message", "exception"} <= document.keys()
    assert document["message"] == message.encode("utf-8", "backslashreplace").decode()


@given(TEXTS, TEXTS)
def test_whatever_is_logged_a_terminal_shows_it_and_does_nothing_else(
    message: str, error: str
) -> None:
    first, *trace = ConsoleFormatter().format(_record(message, RuntimeError(error))).split("\n")
    assert first.isprintable()
    assert all(line.isprintable() and line.startswith("    ") for line in trace)


@pytest.mark.parametrize("character", ["\x1b", "\u2028", "\x00", "\x9b", "\u202e", "\ud800"])
def test_character_that_a_terminal_would_act_on_is_named(character: str) -> None:
    line = ConsoleFormatter().format(_record(f"a{character}b"))
    assert line.endswith(f"a{character.encode('unicode_escape').decode()}b")


def test_what_json_has_stays_what_it_is() -> None:
    record = _record("x", count=3, share=0.5, none=None, yes=True, level="mine", color_message="y")
    document = json.loads(JsonFormatter().format(record))
    assert (document["count"], document["share"], document["none"]) == (3, 0.5, None)
    assert document["yes"] is True
    assert document["level"] == "info"
    assert "color_message" not in document


def test_libraries_do_not_tell_of_every_request(logger: logging.Logger) -> None:
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("httpx").info("HTTP Request: GET http://127.0.0.1:9100/metrics")
    assert stream.getvalue() == ""
