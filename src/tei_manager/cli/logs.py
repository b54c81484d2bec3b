"""``tei-manager instances logs`` and ``events``: what an instance said, and what happened to it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from tei_manager.cli.control import ApiUrl, AsJson, Control, Name, TokenFile, default_url
from tei_manager.cli.progress import path_of
from tei_manager.cli.terminal import console


def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=1, max=2**31 - 1, help="How many.")
    ] = 100,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show the last lines of an instance's output; a followed log is one JSON text a line."""
    control = Control(api, token_file)
    if follow:
        with contextlib.suppress(KeyboardInterrupt):
            for line in _lines(control.stream(path_of(name, "logs"), follow=1, start=-lines)):
                print(json.dumps(line) if as_json else line, flush=True)
        return
    found = control.call("GET", path_of(name, "logs"), start=-lines)
    print(json.dumps(found, indent=2) if as_json else "\n".join(found["lines"]))


def _lines(pieces: Iterable[str]) -> Iterator[str]:
    """Yield whole lines of a text that comes in pieces."""
    rest = ""
    for piece in pieces:
        *whole, rest = (rest + piece).split("\n")
        yield from whole
    if rest:
        yield rest


def events(
    name: Name,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what happened to an instance, oldest first."""
    rows = Control(api, token_file).call("GET", path_of(name, "events"))
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from datetime import datetime

    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for row in rows:
        moment = datetime.fromisoformat(row["at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        grid.add_row(moment, row["event"], Text(row["detail"]))
    console().print(grid)
