"""What workers that are gone had counted: the base to which the present ones add their counts.

It is in a file of the run directory, so that no sum falls when a manager is killed and the next
one goes on with its workers. Without workers that were found everything begins at zero, as the
counts of those that are gone in the meantime are not known.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from tei_manager.telemetry.counters import add, settled, without

log = logging.getLogger(__name__)


class Base:
    """The sum of the last reports of workers that are gone.

    Args:
        path: Of its file, written whole each time: a worker is replaced rarely.
        keep: Whether what the file has still counts.

    Attributes:
        report: The sum, without gauges.
    """

    def __init__(self, path: Path, keep: bool) -> None:
        self._path = path
        self.report: dict[str, Any] = self._read() if keep else {}
        if not keep:
            self.delete()

    def __repr__(self) -> str:
        return f"<Base {self._path}: {len(self.report)} series>"

    def settle(self, report: dict[str, Any]) -> None:
        """Add the last report of a worker that is gone."""
        self._write(add(self.report, settled(report)))

    def forget(self, instance: str) -> None:
        """Drop the series of an instance."""
        if self.report:
            self._write(without(self.report, instance))

    def delete(self) -> None:
        """Remove the file; the sum stays."""
        self._path.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._path.read_bytes()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            log.warning("%s cannot be read (%s); counters start anew", self._path, error)
            return {}

    def _write(self, report: dict[str, Any]) -> None:
        self.report = report
        draft = self._path.with_suffix(".new")
        try:
            draft.write_text(json.dumps(report), "utf-8")
            draft.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written (%s)", self._path, error)
