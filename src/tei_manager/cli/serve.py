"""``tei-manager serve``: the control plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tei_manager.cli.config import File
from tei_manager.cli.mux import PASSTHROUGH_HELP, Passthrough


def serve(
    config: File = None,
    api_host: Annotated[str | None, typer.Option(help="Address of the control API.")] = None,
    api_port: Annotated[int | None, typer.Option(help="Port of the control API.")] = None,
    allow_insecure: Annotated[
        bool | None, typer.Option(help="Let others reach the control API without a token.")
    ] = None,
    grpc_host: Annotated[str | None, typer.Option(help="Address of the multiplexer.")] = None,
    grpc_port: Annotated[int | None, typer.Option(help="Port of the multiplexer.")] = None,
    passthrough: Annotated[Passthrough | None, typer.Option(help=PASSTHROUGH_HELP)] = None,
    state: Annotated[Path | None, typer.Option(help="State file.")] = None,
    log_dir: Annotated[Path | None, typer.Option(help="Folder of the instances' logs.")] = None,
    on_exit: Annotated[
        str | None, typer.Option(help="What SIGTERM does to instances: stop or leave.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning, error.")] = None,
    log_format: Annotated[str | None, typer.Option(help="auto, console or json.")] = None,
) -> None:
    """Run the manager: control API, multiplexer and all instances, until Ctrl-C."""
    import asyncio

    from tei_manager.api.server import serve as run
    from tei_manager.settings import load
    from tei_manager.telemetry.logs import configure

    given = {
        ("api", "host"): api_host,
        ("api", "port"): api_port,
        ("api", "allow_insecure"): allow_insecure,
        ("grpc", "host"): grpc_host,
        ("grpc", "multiplexer_port"): grpc_port,
        ("grpc", "passthrough"): passthrough and passthrough.value,
        ("state", "path"): state,
        ("instances", "log_dir"): log_dir,
        ("instances", "on_exit"): on_exit,
        ("log", "level"): log_level,
        ("log", "format"): log_format,
    }
    flags = {key: value for key, value in given.items() if value is not None}
    settings, _ = load(config, flags=flags)
    configure(settings.log.level, settings.log.format)
    asyncio.run(run(settings, lambda: load(config, flags=flags)[0]))
