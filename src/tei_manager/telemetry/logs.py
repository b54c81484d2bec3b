"""Set-up of the manager's log: lines for people on a terminal, JSON documents elsewhere."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO

# Attributes that every LogRecord has; what else is there came in by ``extra=`` and is logged.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """One JSON document a line; control characters of messages are escaped by the encoding."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with its ``extra`` fields, and the traceback where there is one."""
        fields = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)


class ConsoleFormatter(logging.Formatter):
    """Time, level and message; line breaks in a message cannot forge a line of the log."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, followed by the traceback where there is one."""
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        message = record.getMessage().replace("\r", "\\r").replace("\n", "\\n")
        line = f"{moment} {record.levelname.lower():7} {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


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
