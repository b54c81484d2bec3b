"""On which line of a TOML text a key stands; the standard library's reader does not say."""

from __future__ import annotations

import re

from tei_manager.settings.sections import Location

_HEADER = re.compile(r"\s*\[{1,2}\s*([^\]\s]+)\s*\]")
_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")


def line_of(text: str, location: Location) -> int:
    """Return the line (from 1) of a key such as ``("instance", 1, "port")``, or of its table.

    Knows the layout that people write, tables in brackets with a key a line; for inline and
    dotted tables it gives the nearest line above.
    """
    section, index = str(location[0]), location[1] if len(location) > 1 else None
    key = str(location[-1])
    inside, seen, best = False, -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            same = header[1] == section
            seen += same
            inside = same and (not isinstance(index, int) or seen == index)
        elif not inside and not (len(location) == 1 and seen < 0):
            continue
        name = _KEY.match(line)
        if (name and name[1] == key) or (header and inside):
            best = number
            if name:
                break
    return best
