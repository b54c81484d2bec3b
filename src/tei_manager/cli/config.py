"""``tei-manager config``: are the settings right, and where does each of them come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from tei_manager.cli.control import AsJson

app = typer.Typer(help="Look at the settings without starting anything.", no_args_is_help=True)

File = Annotated[Path | None, typer.Option("--config", "-c", help="Settings, TOML.")]


@app.command("check")
def check(config: File = None) -> None:
    """Name every mistake in the settings; exit code 1 if there is one."""
    from tei_manager.settings import load

    settings, _ = load(config)
    count = len(settings.instance)
    print(f"{config or 'Settings'}: no mistakes; {count} [[instance]] tables")


@app.command("show")
def show(config: File = None, as_json: AsJson = False) -> None:
    """Show every setting in force, and where it comes from."""
    from tei_manager.settings import load

    settings, origins = load(config)
    document = settings.model_dump(mode="json")
    if as_json:
        print(json.dumps(document, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("Setting", "Value", "From")
    for section, values in document.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            origin = origins.get((section, key), "default")
            table.add_row(Text(f"[{section}] {key}"), Text(json.dumps(value)), Text(origin))
    for spec in settings.instance:
        table.add_row(Text("[[instance]]"), Text(f"{spec.name} = {spec.model_id}"), str(config))
    Console().print(table)
