"""``tei-manager instances``: look at the instances of a running manager and change them."""

from __future__ import annotations

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer

from tei_manager.cli.control import REFUSED, ApiUrl, AsJson, Control, default_url

app = typer.Typer(help="Instances of a running manager.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the instance.")]
Wait = Annotated[
    float,
    typer.Option("--wait", help="Seconds to wait until it has settled; 0 = do not wait."),
]

_COLOURS = {
    "running": "green",
    "starting": "cyan",
    "stopping": "cyan",
    "unhealthy": "yellow",
    "failed": "red",
    "stopped": "dim",
}


def _path(name: str, verb: str = "") -> str:
    return f"/instances/{quote(name, safe='')}{verb and '/' + verb}"


@app.command("list")
def list_instances(api: ApiUrl = default_url(), as_json: AsJson = False) -> None:
    """Show all instances."""
    rows = Control(api).call("GET", "/instances")
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("Name", "Status", "Model", "Backend", "Address", "Up", "Restarts", "Reason"):
        table.add_column(heading, overflow="fold", no_wrap=heading not in ("Model", "Reason"))
    for row in rows:
        status = Text(row["status"], style=_COLOURS.get(row["status"], ""))
        table.add_row(
            row["name"], status, Text(row["model_id"]), row["backend"], row["address"],
            _duration(row["uptime_secs"]), str(row["restarts"]), Text(_first(row)),
        )  # fmt: skip
    Console().print(table if rows else "No instances; make one with 'tei-manager instances create'")


def _first(row: dict[str, Any]) -> str:
    lines = row["status_reason"].splitlines()
    return str(lines[0]) if lines else ""


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


@app.command("show")
def show(name: Name, api: ApiUrl = default_url(), as_json: AsJson = False) -> None:
    """Show everything about one instance."""
    _print(Control(api).call("GET", _path(name)), as_json)


def _print(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(row, indent=2))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for key, value in row.items():
        style = _COLOURS.get(value, "") if key == "status" else ""
        grid.add_row(key, Text("-" if value in (None, "") else str(value), style=style))
    Console().print(grid)


@app.command("create")
def create(
    name: Name,
    model_id: Annotated[str, typer.Argument(help="Hub id or directory of the model.")],
    port: Annotated[int | None, typer.Option(help="Chosen if absent.")] = None,
    gpu_id: Annotated[int | None, typer.Option(help="Index of the GPU.")] = None,
    backend: Annotated[str | None, typer.Option(help="auto, tei, engine, external.")] = None,
    address: Annotated[str | None, typer.Option(help="HOST:PORT of an external one.")] = None,
    pooling: Annotated[str | None, typer.Option(help="cls, mean, splade, last-token.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float16, float32, bfloat16.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision on the hub.")] = None,
    max_batch_tokens: Annotated[int | None, typer.Option(min=1)] = None,
    max_concurrent_requests: Annotated[int | None, typer.Option(min=1)] = None,
    extra: Annotated[
        list[str] | None, typer.Option("--extra", help="Further flag, as --flag=value.")
    ] = None,
    start: Annotated[bool, typer.Option("--start/--no-start")] = True,
    wait: Wait = 0,
    api: ApiUrl = default_url(),
    as_json: AsJson = False,
) -> None:
    """Create an instance and start it."""
    given = {
        "name": name, "model_id": model_id, "port": port, "gpu_id": gpu_id, "backend": backend,
        "address": address, "pooling": pooling, "dtype": dtype, "revision": revision,
        "max_batch_tokens": max_batch_tokens, "max_concurrent_requests": max_concurrent_requests,
        "extra_args": extra or None,
    }  # fmt: skip
    body: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    body["autostart"] = start
    _report(Control(api).call("POST", "/instances", body, wait), as_json)


def _report(row: dict[str, Any], as_json: bool) -> None:
    """Print what became of an instance; a failed one makes the command fail."""
    if as_json:
        print(json.dumps(row, indent=2))
    else:
        reason = f" ({row['status_reason']})" if row["status_reason"] else ""
        print(f"{row['name']}: {row['status']} at {row['address']}{reason}")
    if row["status"] == "failed":
        raise typer.Exit(REFUSED)


@app.command("start")
def start_instance(
    name: Name, wait: Wait = 0, api: ApiUrl = default_url(), as_json: AsJson = False
) -> None:
    """Start an instance that is stopped or failed."""
    _report(Control(api).call("POST", _path(name, "start"), wait=wait), as_json)


@app.command("stop")
def stop_instance(
    name: Name, wait: Wait = 0, api: ApiUrl = default_url(), as_json: AsJson = False
) -> None:
    """Stop an instance; it stays stopped until somebody starts it."""
    _report(Control(api).call("POST", _path(name, "stop"), wait=wait), as_json)


@app.command("restart")
def restart_instance(
    name: Name, wait: Wait = 0, api: ApiUrl = default_url(), as_json: AsJson = False
) -> None:
    """Stop an instance if it is up, and start it."""
    _report(Control(api).call("POST", _path(name, "restart"), wait=wait), as_json)


@app.command("delete")
def delete_instance(name: Name, api: ApiUrl = default_url(), as_json: AsJson = False) -> None:
    """End an instance and remove it."""
    Control(api).call("DELETE", _path(name))
    print(json.dumps({"deleted": name}) if as_json else f"{name}: deleted")


@app.command("logs")
def logs(
    name: Name,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many.")] = 100,
    api: ApiUrl = default_url(),
    as_json: AsJson = False,
) -> None:
    """Show the last lines of an instance's output; a followed log is text, never JSON."""
    control = Control(api)
    if follow:
        for text in control.stream(_path(name, "logs"), follow=1, start=-lines):
            print(text, end="", flush=True)
        return
    found = control.call("GET", _path(name, "logs"), start=-lines)
    print(json.dumps(found, indent=2) if as_json else "\n".join(found["lines"]))
