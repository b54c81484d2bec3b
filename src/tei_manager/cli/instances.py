"""``tei-manager instances``: look at the instances of a running manager and change them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from tei_manager.cli import logs, top
from tei_manager.cli.control import (
    REFUSED,
    TOO_LATE,
    ApiUrl,
    AsJson,
    Control,
    Name,
    TokenFile,
    default_url,
    fail,
)
from tei_manager.cli.progress import is_busy, path_of, settled
from tei_manager.cli.terminal import console, cut, duration, print_all, state

app = typer.Typer(help="Instances of a running manager.", no_args_is_help=True)
app.command("logs")(logs.logs)
app.command("events")(logs.events)
app.command("top")(top.top)

Wait = Annotated[
    float,
    typer.Option(
        "--wait", min=0, max=600, help="Seconds to wait until it has settled; 0 = do not wait."
    ),
]

# Narrower terminals are shown what tells one instance from another.
_WIDE = 110


@app.command("list")
def list_instances(
    api: ApiUrl = default_url(), token_file: TokenFile = None, as_json: AsJson = False
) -> None:
    """Show all instances."""
    rows = Control(api, token_file).call("GET", "/instances")
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("No instances; make one with 'tei-manager instances create NAME MODEL'")
    else:
        _print_table(rows)


def _print_table(rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    headings = ["Name", "Status", "Model", "Address", "Up"]
    if console().width >= _WIDE:
        headings += ["Backend", "Restarts", "Reason"]
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=heading not in ("Model", "Reason"))
    for row in rows:
        cells = {
            "Name": row["name"], "Status": state(row["status"]), "Model": cut(row["model_id"]),
            "Address": row["address"], "Up": duration(row["uptime_secs"]),
            "Backend": row["backend"], "Restarts": str(row["restarts"]),
            "Reason": cut((row["status_reason"].splitlines() or [""])[0]),
        }  # fmt: skip
        table.add_row(*(cells[heading] for heading in headings))
    console().print(table)


@app.command("show")
def show(
    name: Name,
    wait: Wait = 0,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one instance."""
    control = Control(api, token_file)
    row = settled(control, control.call("GET", path_of(name)), wait, as_json)
    if as_json:
        print(json.dumps(row, indent=2))
    else:
        print_all(row)


@app.command("create")
def create(
    name: Name,
    model_id: Annotated[str, typer.Argument(help="Hub id or folder of the model.")],
    port: Annotated[int | None, typer.Option(help="Chosen if absent.")] = None,
    gpu_id: Annotated[int | None, typer.Option(help="Index of the GPU.")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, tei, engine, external.")] = None,
    address: Annotated[str | None, typer.Option(help="HOST:PORT of an external one.")] = None,
    pooling: Annotated[str | None, typer.Option(help="cls, mean, splade, last-token.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float16, float32, bfloat16.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision on the hub.")] = None,
    max_batch_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    max_concurrent_requests: Annotated[int | None, typer.Option(min=1)] = None,
    prometheus_port: Annotated[int | None, typer.Option(help="Chosen if absent.")] = None,
    startup_timeout_secs: Annotated[float | None, typer.Option(help="Until it must run.")] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="On the manager's machine.")] = None,
    extra: Annotated[
        list[str] | None, typer.Option("--extra", help="Further flag, as --flag=value.")
    ] = None,
    start: Annotated[bool, typer.Option("--start/--no-start")] = True,
    wait: Wait = 0,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Create an instance and start it."""
    given = {
        "name": name, "model_id": model_id, "port": port, "gpu_id": gpu_id, "backend": backend,
        "address": address, "pooling": pooling, "dtype": dtype, "revision": revision,
        "max_batch_tokens": max_batch_tokens, "max_concurrent_requests": max_concurrent_requests,
        "prometheus_port": prometheus_port, "startup_timeout_secs": startup_timeout_secs,
        "api_key_file": str(api_key_file) if api_key_file else None,
        "extra_args": extra or None,
    }  # fmt: skip
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    body["autostart"] = start
    control = Control(api, token_file)
    _report(control, control.call("POST", "/instances", body), wait, as_json)


def _report(control: Control, row: dict[str, Any], wait: float, as_json: bool) -> None:
    """Print what became of an instance; one that failed, or is late, makes the command fail."""
    row = settled(control, row, wait, as_json)
    if as_json:
        print(json.dumps(row, indent=2))
    else:
        reason = f" ({row['status_reason']})" if row["status_reason"] else ""
        print(f"{row['name']}: {row['status']} at {row['address']}{reason}")
    if row["status"] == "failed":
        raise typer.Exit(REFUSED)
    if wait and is_busy(row):
        hint = f"see 'tei-manager instances logs {row['name']}', or wait longer"
        fail(f"{row['name']} is {row['status']} after {wait:g} s; {hint}", TOO_LATE)


@app.command("start")
def start_instance(
    name: Name,
    wait: Wait = 0,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Start an instance that is stopped or failed."""
    _act(Control(api, token_file), name, "start", wait, as_json)


@app.command("stop")
def stop_instance(
    name: Name,
    wait: Wait = 0,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Stop an instance; it stays stopped until somebody starts it."""
    _act(Control(api, token_file), name, "stop", wait, as_json)


@app.command("restart")
def restart_instance(
    name: Name,
    wait: Wait = 0,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """Stop an instance if it is up, and start it."""
    _act(Control(api, token_file), name, "restart", wait, as_json)


def _act(control: Control, name: str, verb: str, wait: float, as_json: bool) -> None:
    _report(control, control.call("POST", path_of(name, verb)), wait, as_json)


@app.command("delete")
def delete_instance(
    name: Name,
    api: ApiUrl = default_url(),
    token_file: TokenFile = None,
    as_json: AsJson = False,
) -> None:
    """End an instance and remove it."""
    Control(api, token_file).call("DELETE", path_of(name))
    print(json.dumps({"deleted": name}) if as_json else f"{name}: deleted")
