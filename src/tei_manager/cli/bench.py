"""``tei-manager bench``: what calls through the multiplexer take beyond calls to the instance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tei_manager.bench.cases import Group
from tei_manager.cli.control import first_token
from tei_manager.cli.embed import Target, TokenFile, default_target, reach


def bench(
    direct: Annotated[str, typer.Option(metavar="HOST:PORT", help="The instance itself.")],
    instance: Annotated[str, typer.Option("--instance", "-i", help="Its name.")],
    group: Annotated[Group | None, typer.Argument(help="Cases; all if left out.")] = None,
    target: Target = default_target(),
    token_file: TokenFile = None,
    calls: Annotated[
        int, typer.Option(min=1, help="Of each case and way, in each of ten rounds.")
    ] = 20,
    json: Annotated[Path | None, typer.Option(help="Write the rounds' figures here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with a chart here.")] = None,
) -> None:
    """Measure one instance directly and through a running multiplexer, call by call in turn."""
    from tei_manager.bench.about import about
    from tei_manager.bench.cases import cases
    from tei_manager.bench.paths import Path as Way
    from tei_manager.bench.results import DIRECT, OURS, Overheads
    from tei_manager.bench.terminal import deliver, watched

    address, credentials = reach(target)
    shown = f"tei-manager bench --direct HOST:PORT --instance NAME{_door(target)} --calls {calls}"
    results = Overheads(about(f"{shown} {group}" if group else shown))
    token = first_token(token_file) if token_file else ""
    way = Way(OURS, address, instance, credentials, token)
    with Way(DIRECT, direct) as straight, way as through:
        watched(results, cases(group), [straight, through], calls)
    deliver(results, json, markdown, html)


def _door(target: str) -> str:
    """Return how the multiplexer was reached, with no address of this machine in it."""
    doors = {"https://": " --target https://HOST:PORT", "unix:": " --target unix:PATH"}
    return next((shown for start, shown in doors.items() if target.startswith(start)), "")
