"""``tei-manager instances top``: a live view of the instances and of the calls to them."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from tei_manager.cli.control import ApiUrl, AsJson, Control, TokenFile, default_url
from tei_manager.cli.figures import View, compare, look
from tei_manager.cli.terminal import console, cut, duration, milliseconds, octets, state

if TYPE_CHECKING:
    from rich.console import Group

_TEXTS = ("Name", "Status", "Model")
_HEADINGS = (
    *("Name", "Status", "In flight", "Calls/s", "p50", "p99"),
    *("Memory", "Up", "Restarts", "Model"),
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


def top(
    interval: Annotated[float, typer.Option("--interval", "-i", min=0.1, max=3600)] = 2,
    count: Annotated[
        int, typer.Option("--count", "-n", min=0, help="How many views; 0 = until Ctrl-C.")
    ] = 0,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Watch state, calls in flight, rate, p50 and p99, and memory; without a terminal, once."""
    control, local = Control(api, token_file), urlsplit(api).hostname in _LOOPBACK
    live = sys.stdout.isatty() and not as_json
    left = count or (sys.maxsize if live else 1)
    with contextlib.suppress(KeyboardInterrupt), _screen(live) as draw:
        before = look(control, local)
        while left > 0:
            time.sleep(interval)
            after = look(control, local)
            shown = compare(before, after)
            if as_json:
                print(json.dumps(asdict(shown)), flush=True)
            else:
                draw(render(shown))
            before, left = after, left - 1


@contextlib.contextmanager
def _screen(live: bool) -> Any:
    """Give the function that draws: over the last view on a terminal, below it elsewhere."""
    if not live:
        yield console().print
        return
    from rich.live import Live

    with Live(console=console(), screen=True, auto_refresh=False) as screen:
        yield lambda view: screen.update(view, refresh=True)


def render(view: View) -> Group:
    """Return the view as it is drawn."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    head = (
        f"{view.in_flight} calls in flight, {view.rate:.1f} a second, "
        f"p50 {milliseconds(view.p50)}, p99 {milliseconds(view.p99)}; "
        f"{view.clients} clients, {view.workers} workers"
    )
    table = Table(box=None, pad_edge=False)
    for heading in _HEADINGS:
        justify: Literal["left", "right"] = "left" if heading in _TEXTS else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "Model")
    for row in view.instances:
        table.add_row(
            row["name"], state(row["status"]), str(row["in_flight"]), f"{row['rate']:.1f}",
            milliseconds(row["p50"]), milliseconds(row["p99"]), octets(row["memory"]),
            duration(row["uptime_secs"]), str(row["restarts"]), cut(row["model_id"]),
        )  # fmt: skip
    return Group(Text(head, style="bold"), Text(""), table)
