"""``tei-manager bench``: what calls through the multiplexer take beyond calls to the instance."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tei_manager.bench.cases import Group
from tei_manager.cli.embed import default_target


def bench(
    direct: Annotated[str, typer.Option(metavar="HOST:PORT", help="The instance itself.")],
    instance: Annotated[str, typer.Option("--instance", "-i", help="Its name.")],
    group: Annotated[Group | None, typer.Argument(help="Cases; all if left out.")] = None,
    target: Annotated[str, typer.Option(help="HOST:PORT of the multiplexer.")] = default_target(),
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

    shown = f"tei-manager bench --direct HOST:PORT --instance NAME --calls {calls}"
    results = Overheads(about(f"{shown} {group}" if group else shown))
    with Way(DIRECT, direct) as straight, Way(OURS, target, instance) as through:
        watched(results, cases(group), [straight, through], calls)
    deliver(results, json, markdown, html)
