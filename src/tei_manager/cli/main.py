"""The ``tei-manager`` command. Heavy modules are imported by the commands that need them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tei_manager import __version__
from tei_manager.cli import bench, config, embed, instances, models, mux, serve
from tei_manager.cli.trust import Ca, Cert, Key, Trust, use
from tei_manager.errors import TeiManagerError

app = typer.Typer(
    name="tei-manager",
    help="One gRPC address in front of many Text Embeddings Inference servers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("serve")(serve.serve)
app.command("mux")(mux.mux)
app.command("embed")(embed.embed)
app.command("bench")(bench.bench)
app.add_typer(instances.app, name="instances")
app.add_typer(models.app, name="models")
app.add_typer(config.app, name="config")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
    ca: Ca = None,
    cert: Cert = None,
    key: Key = None,
) -> None:
    del version  # `_show_version` has acted on it
    use(Trust(ca, cert, key))


def main() -> None:
    """Run the command line; a failure that a user can mend is one sentence and exit code 1.

    Usage mistakes exit with 2, as everywhere; see `cli.control` for the codes of the commands
    that talk to a running manager.
    """
    try:
        app()
    except TeiManagerError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(1)
