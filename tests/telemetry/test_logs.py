"""The manager's log: one document or one line a record, whatever is in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tei_manager.telemetry.logs import configure


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
