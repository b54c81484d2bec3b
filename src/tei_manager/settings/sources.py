"""The reading of settings from all their sources, with every mistake at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tei_manager.errors import InvalidSettings
from tei_manager.settings.lines import line_of
from tei_manager.settings.mistakes import sentence
from tei_manager.settings.sections import ENVIRONMENT, Location, Settings, contradictions

Origins = dict[Location, str]
"""For each value that is not a default, where it came from: ``models.toml:4``."""


def load(
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[tuple[str, str], Any] | None = None,
) -> tuple[Settings, Origins]:
    """Read the settings from all their sources.

    Args:
        file: A TOML file; no other place is searched.
        environ: Where `ENVIRONMENT` is looked up.
        flags: Values from the command line by section and key; they win.

    Returns:
        The settings, and for each value that is not a default where it came from.

    Raises:
        InvalidSettings: With one sentence for each mistake in any of the sources.
    """
    text = _read(file) if file else ""
    document = _parse(text, str(file)) if file else {}
    origins = {location: f"{file}:{line_of(text, location)}" for location in _locations(document)}
    over = {
        key: (_value(key, environ[name]), f"environment {name}")
        for name, key in ENVIRONMENT.items()
        if name in environ
    }
    over |= {key: (value, "command line") for key, value in (flags or {}).items()}
    for (section, name), (value, origin) in over.items():
        if isinstance(table := document.setdefault(section, {}), dict):
            table[name] = value
            origins[section, name] = origin
    return _Reader(origins, text, file).settings(document), origins


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError as error:
        reason = f"{(error.strerror or 'unknown error').lower()}; check --config"
    except UnicodeDecodeError:
        reason = "it is not UTF-8; save it as UTF-8"
    raise InvalidSettings([f"{file}: cannot be read: {reason}"])


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        where = f"{file}:{found[1]}" if found else file
        raise InvalidSettings([f"{where}: not TOML: {error}"]) from error
    except RecursionError:
        raise InvalidSettings([f"{file}: nested too deeply"]) from None


def _locations(document: dict[str, Any]) -> Iterable[Location]:
    for section, tables in document.items():
        if isinstance(tables, dict):
            yield from ((section, key) for key in tables)
        elif isinstance(tables, list):
            for index, table in enumerate(tables):
                if isinstance(table, dict):
                    yield from ((section, index, key) for key in table)


def _value(key: tuple[str, str], text: str) -> int | str:
    """Return the text of an environment variable as what the key takes, if it can be read so."""
    default = getattr(getattr(Settings(), key[0]), key[1])
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text, text)
    wanted = isinstance(default, int) and re.fullmatch(r"-?[0-9]{1,18}", text)
    return int(text) if wanted else text


class _Reader:
    """Makes settings of a document, or the list of all its mistakes.

    Args:
        origins: Of the values in the document.
        text: Of the file; empty if there is none.
        file: Its name.
    """

    def __init__(self, origins: Origins, text: str, file: Path | None) -> None:
        self._origins, self._text, self._file = origins, text, file

    def settings(self, document: dict[str, Any]) -> Settings:
        """Return the settings.

        Raises:
            InvalidSettings: There are mistakes.
        """
        found: list[tuple[Location, str]] = []
        tables: list[int] | None = None
        try:
            settings = Settings.model_validate(document)
        except ValidationError as error:
            details = error.errors()
            found = [(it["loc"], sentence(it["loc"], it["type"], it["msg"])) for it in details]
            rest, tables = _without(document, {it["loc"][:2] for it in details})
            settings = Settings.model_validate(rest)
        for location, text in contradictions(settings):
            if tables is not None and location[0] == "instance":
                location = "instance", tables[int(location[1])], *location[2:]
            found.append((location, text))
        if found:
            raise InvalidSettings(self._told(found))
        return settings

    def _told(self, found: list[tuple[Location, str]]) -> list[str]:
        """Return the mistakes with their places, those in the file in the order of its lines."""
        placed = [(self._place(location), text) for location, text in found]
        placed.sort(key=lambda mistake: _line_in(mistake[0]))
        return [f"{place}: {text}" for place, text in placed]

    def _place(self, location: Location) -> str:
        """Return where a mistake is: the origin of the value, or the line of its table."""
        for length in (len(location), 3, 2):
            if known := self._origins.get(location[:length]):
                return known
        return f"{self._file}:{line_of(self._text, location)}" if self._file else "settings"


def _line_in(place: str) -> int:
    line = place.rpartition(":")[2]
    return int(line) if line.isdecimal() else 0


def _without(
    document: dict[str, Any], mistakes: Collection[Location]
) -> tuple[dict[str, Any], list[int]]:
    """Return a document without the keys and ``[[instance]]`` tables that have mistakes.

    So that contradictions among the rest are told in the same run.

    Returns:
        The document, and the indices of the ``[[instance]]`` tables that are left.
    """
    rest = {
        section: {key: value for key, value in table.items() if (section, key) not in mistakes}
        if isinstance(table, dict)
        else table
        for section, table in document.items()
        if (section,) not in mistakes
    }
    tables = rest.get("instance", [])
    kept = [index for index in range(len(tables)) if ("instance", index) not in mistakes]
    if tables:
        rest["instance"] = [tables[index] for index in kept]
    return rest, kept
