"""Places in a page that a program fills: between ``<!-- NAME -->`` and `END`."""

from __future__ import annotations

END = "<!-- end -->"


def filled(page: str, name: str, text: str) -> str:
    """Return the page with a text in the place of that name.

    Raises:
        ValueError: The page has no such place.
    """
    before, mark, rest = page.partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no place for {name}")
    return f"{before}{mark}\n{text}\n{end}{after}"
