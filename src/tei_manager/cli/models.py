"""``tei-manager models``: look at the models of a running manager, fetch, try and delete them."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any
from urllib.parse import quote

import typer

from tei_manager.cli.control import (
    REFUSED,
    TOO_LATE,
    ApiUrl,
    AsJson,
    Control,
    TokenFile,
    default_url,
    fail,
)
from tei_manager.cli.terminal import console, cut, octets, print_all, state

app = typer.Typer(help="Models of a running manager.", no_args_is_help=True)

ModelId = Annotated[str, typer.Argument(help="Hub id, or folder on the manager's machine.")]
Limit = Annotated[float, typer.Option("--wait", min=0, help="Seconds; 0 = do not wait.")]

# Seconds between two looks while something is under way.
_STEP = 0.3


def _path(model_id: str, verb: str = "") -> str:
    return f"/models/{quote(model_id, safe='')}{verb and '/' + verb}"


@app.command("list")
def list_models(
    api: ApiUrl = default_url(), token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show all models."""
    rows = Control(api, token_file).call("GET", "/models")
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("No models; fetch one with 'tei-manager models download MODEL'")
    else:
        _print_table(rows)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("Model", "Status", "Size", "Kind", "Type", "Pooling", "Instances"):
        table.add_column(heading, no_wrap=heading != "Model")
    for row in rows:
        table.add_row(
            cut(row["model_id"]), state(row["status"]), octets(row["cache_size_bytes"]),
            row["kind"] or "-", cut(row["model_type"] or "-"), row["pooling"] or "-",
            ", ".join(row["instances"]) or "-",
        )  # fmt: skip
    console().print(table)


@app.command("show")
def show(
    model_id: ModelId,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one model."""
    row = Control(api, token_file).call("GET", _path(model_id))
    if as_json:
        print(json.dumps(row, indent=2))
    else:
        print_all(row)


@app.command("add")
def add(
    model_id: ModelId,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Register a model, so that it is listed."""
    _report(Control(api, token_file).call("POST", "/models", {"model_id": model_id}), as_json)


@app.command("download")
def download(
    model_id: ModelId,
    wait: Limit = 3600,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Download a model, or what is missing of it; the manager goes on if this is interrupted."""
    _do(Control(api, token_file), model_id, "download", wait, as_json)


@app.command("verify")
def verify(
    model_id: ModelId,
    wait: Limit = 600,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Try whether a server starts with a model."""
    _do(Control(api, token_file), model_id, "load", wait, as_json)


@app.command("delete")
def delete(
    model_id: ModelId,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Forget a model and remove it from the cache."""
    Control(api, token_file).call("DELETE", _path(model_id))
    print(json.dumps({"deleted": model_id}) if as_json else f"{model_id}: deleted")


def _do(control: Control, model_id: str, verb: str, wait: float, as_json: bool) -> None:
    row = control.call("POST", _path(model_id, verb))
    row = _watched(control, row, wait, as_json or not sys.stderr.isatty())
    _report(row, as_json)
    if wait and _is_busy(row):
        fail(f"{model_id} is {row['status']} after {wait:g} s; it goes on", TOO_LATE)


def _report(row: dict[str, Any], as_json: bool) -> None:
    """Print what became of a model; one that failed makes the command fail."""
    if as_json:
        print(json.dumps(row, indent=2))
    else:
        why = f" ({row['error']})" if row["error"] else ""
        print(f"{row['model_id']}: {row['status']}{why}")
    if row["status"] == "failed":
        raise typer.Exit(REFUSED)


def _is_busy(row: dict[str, Any]) -> bool:
    return row["status"] in ("downloading", "loading")


def _watched(control: Control, row: dict[str, Any], wait: float, quiet: bool) -> dict[str, Any]:
    """Return a model once nothing is done with it, with a bar of octets on a terminal."""
    import time

    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    end = time.monotonic() + wait
    drawn = Console(stderr=True)
    with Progress(*columns, console=drawn, transient=True, disable=quiet) as progress:
        bar = progress.add_task(row["status"], total=None)
        while _is_busy(row) and (left := end - time.monotonic()) > 0:
            row = control.call("GET", _path(row["model_id"]), wait=min(_STEP, left))
            far = row["progress"] or {"bytes": 0, "bytes_total": 0}
            total = far["bytes_total"] or None
            progress.update(bar, description=row["status"], completed=far["bytes"], total=total)
    return row
