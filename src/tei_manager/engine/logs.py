"""The engine's log: lines on stdout, where TEI writes its own, as text or as JSON."""

from __future__ import annotations

import json
import logging
import sys

# TEI's variable; its filter language has more, of which only a level is understood here.
LEVEL_VARIABLE = "LOG_LEVEL"

_LEVELS = {"trace": "DEBUG", "debug": "DEBUG", "info": "INFO", "warn": "WARNING", "error": "ERROR"}


class _JsonLines(logging.Formatter):
    """One object a line with the fields that TEI writes."""

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "timestamp": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname,
            "message": record.getMessage(),
            "target": record.name,
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def start_logging(level: str, *, as_json: bool) -> None:
    """Send all logs of the process to stdout.

    Args:
        level: As in TEI; anything but the name of a level means ``info``.
        as_json: One JSON object a line instead of text.
    """
    handler = logging.StreamHandler(sys.stdout)
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler.setFormatter(_JsonLines() if as_json else text)
    logging.basicConfig(level=_LEVELS.get(level.lower(), "INFO"), handlers=[handler], force=True)
