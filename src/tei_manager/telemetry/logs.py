"""Set-up of the manager's log: lines for people on a terminal, JSON documents elsewhere.

A line that is about one instance says so in its field ``instance``: whoever logs it passes
``extra={"instance": name}``. Whatever is in a message, it stays one line, and a terminal that
shows it obeys none of it.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

# Attributes that every LogRecord has; what else is there came in by ``extra=`` and is logged, but
# for uvicorn's second form of its message.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "color_message",
}  # fmt: skip


class JsonFormatter(logging.Formatter):
    """One JSON document a line, of ASCII characters only."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with its ``extra`` fields, and the traceback where there is one."""
        fields = {
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps({_whole(key): _plain(value) for key, value in fields.items()})


def _plain(value: Any) -> Any:
    """Return a value that JSON has; anything else as text."""
    if (
        value is None
        or isinstance(value, int)
        or (isinstance(value, float) and math.isfinite(value))
    ):
        return value
    return _whole(str(value))


def _whole(text: str) -> str:
    """Return the text without halves of characters, which not every reader of JSON takes."""
    return text.encode("utf-8", "backslashreplace").decode()


class ConsoleFormatter(logging.Formatter):
    """Time, level and message, then the traceback, which is indented so that no line is forged."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, followed by the traceback where there is one."""
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        line = f"{moment} {record.levelname.lower():7} {_printable(record.getMessage())}"
        trace = self.formatException(record.exc_info).split("\n") if record.exc_info else []
        return "\n".join((line, *(f"    {_printable(each)}" for each in trace)))


def _printable(text: str) -> str:
    """Return the text with everything escaped that a terminal would act on instead of show."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def configure(
    level: str = "info",
    format: Literal["auto", "console", "json"] = "auto",  # noqa: A002 - the setting's name
    stream: TextIO | None = None,
) -> None:
    """Send everything that is logged to one stream.

    Args:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        format: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.
        stream: Standard error if absent. It stays the caller's to close.
    """
    target = stream or sys.stderr
    console = format == "console" or (format == "auto" and target.isatty())
    handler = logging.StreamHandler(target)
    handler.setFormatter(ConsoleFormatter() if console else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every scrape
