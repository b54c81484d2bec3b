"""``tei-manager config``: are the settings right, and where does each of them come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tei_manager.cli.control import AsJson

if TYPE_CHECKING:
    from tei_manager.settings import Origins, Settings

app = typer.Typer(help="Look at the settings without starting anything.", no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings, TOML.", envvar="TEI_MANAGER_CONFIG"),
]


@app.command("check")
def check(config: File = None, as_json: AsJson = False) -> None:
    """Name every mistake in the settings; exit code 1 if there is one."""
    from tei_manager.errors import InvalidSettings
    from tei_manager.settings import load

    try:
        settings, _ = load(config)
    except InvalidSettings as error:
        if not as_json:
            raise
        print(json.dumps({"mistakes": error.mistakes}, indent=2))
        raise typer.Exit(1) from None
    if as_json:
        print(json.dumps({"mistakes": []}))
        return
    count = len(settings.instance)
    tables = "1 [[instance]] table" if count == 1 else f"{count} [[instance]] tables"
    print(f"{config or 'Settings'}: no mistakes; {tables}")


@app.command("show")
def show(config: File = None, as_json: AsJson = False) -> None:
    """Show every setting in force, and where it comes from."""
    from tei_manager.settings import load

    settings, origins = load(config)
    if as_json:
        print(json.dumps(_document(settings, origins), indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    from tei_manager.cli.terminal import console

    for section, values in _document(settings, origins).items():
        for number, table in enumerate(values if isinstance(values, list) else [values]):
            name = f"[[{section}]]" if isinstance(values, list) else f"[{section}]"
            console().print(Text(f"{name} {number + 1}" if number else name, style="bold"))
            grid = Table.grid(padding=(0, 2))
            for key, shown in table.items():
                style = "dim" if shown["origin"] == "default" else ""
                value = json.dumps(shown["value"], ensure_ascii=False)
                grid.add_row("", *(Text(cell, style=style) for cell in (key, value)),
                             Text(shown["origin"], style=style))  # fmt: skip
            console().print(grid)


def _document(settings: Settings, origins: Origins) -> dict[str, Any]:
    """Return the settings with, instead of each value, the value and its origin."""

    def shown(values: dict[str, Any], *place: str | int) -> dict[str, Any]:
        return {
            key: {"value": value, "origin": origins.get((*place, key), "default")}
            for key, value in values.items()
        }

    document = settings.model_dump(mode="json")
    tables = document.pop("instance")
    return {
        **{section: shown(values, section) for section, values in document.items()},
        "instance": [shown(table, "instance", index) for index, table in enumerate(tables)],
    }


@app.command("schema")
def schema() -> None:
    """Print the JSON schema of a settings file, for editors that complete and check TOML."""
    from tei_manager.settings import json_schema

    print(json.dumps(json_schema(), indent=2))
