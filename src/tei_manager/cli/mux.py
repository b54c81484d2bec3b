"""``tei-manager mux``: one multiplexer worker with a fixed route table, no manager."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tei_manager.routes import Route
    from tei_manager.settings.sections import GrpcSettings


class Passthrough(StrEnum):
    """What becomes of calls of methods that are not ours."""

    NONE = "none"
    ANY = "any"


PASSTHROUGH_HELP = "any: calls of other methods go to the instance that their metadata names."


def mux(
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where clients connect.")],
    route: Annotated[
        list[str],
        typer.Option(metavar="NAME=HOST:PORT[,model=ID][,status=stopped]", help="One instance."),
    ],
    metrics: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Serve Prometheus' format here.")
    ] = None,
    default_instance: Annotated[str, typer.Option(help="For native calls without target.")] = "",
    max_parallel_streams: Annotated[int, typer.Option(min=1)] = 1024,
    request_timeout_secs: Annotated[float, typer.Option(min=0, help="0 = none.")] = 30,
    max_message_mb: Annotated[int, typer.Option(min=1)] = 64,
    memory_limit_mb: Annotated[int, typer.Option(min=1)] = 512,
    passthrough: Annotated[Passthrough, typer.Option(help=PASSTHROUGH_HELP)] = Passthrough.NONE,
    token_file: Annotated[
        Path | None, typer.Option(help="Tokens, one a line; calls need one of them.")
    ] = None,
    uds: Annotated[Path | None, typer.Option(metavar="PATH", help="Unix socket besides.")] = None,
    uds_mode: Annotated[str, typer.Option(help="Mode of its file.")] = "0600",
    tls_cert: Annotated[Path | None, typer.Option(help="PEM; turns TLS on.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM; the certificate's key.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="PEM; clients need a certificate that it has signed.")
    ] = None,
    tls_client_name: Annotated[
        list[str] | None, typer.Option(help="Alternative name of a client that may come in.")
    ] = None,
) -> None:
    """Route calls to servers that are already running, without a manager."""
    from tei_manager.mux.worker import become_standalone
    from tei_manager.routes import RouteTable
    from tei_manager.tls import Tls
    from tei_manager.unix_socket import UnixAddress

    routes = [parse_route(text, ordinal) for ordinal, text in enumerate(route)]
    try:
        table = RouteTable(1, routes, default_instance)
    except ValueError as error:
        raise typer.BadParameter(f"{error}; give each --route its own name") from None
    rules = _listening(
        uds_path=uds,
        uds_mode=uds_mode,
        tls_cert_file=tls_cert,
        tls_key_file=tls_key,
        tls_client_ca_file=tls_client_ca,
        tls_client_names=tuple(tls_client_name or ()),
    )
    options: dict[str, Any] = {
        "max_parallel_streams": max_parallel_streams,
        "request_timeout_secs": request_timeout_secs,
        "max_message_mb": max_message_mb,
        "memory_limit_mb": memory_limit_mb,
        "passthrough": passthrough.value,
    }
    if tls := Tls.of(rules):
        options["tls"] = tls.to_json()
    if token_file:
        options["token_file"] = str(token_file.absolute())
    unix = UnixAddress.of(rules.uds_path, rules.uds_mode)
    exporter = parse_address(metrics, "--metrics") if metrics else None
    become_standalone(parse_address(listen, "--listen"), table, options, exporter, unix)


def _listening(**flags: Any) -> GrpcSettings:
    """Return flags as the settings that they stand for.

    Raises:
        InvalidSettings: They cannot be, or contradict each other.
    """
    from tei_manager.settings import load

    given = {("grpc", key): value for key, value in flags.items() if value}
    return load(environ={}, flags=given)[0].grpc


def parse_address(text: str, flag: str) -> tuple[str, int]:
    """Split ``HOST:PORT``; an IPv6 address stands in brackets.

    Raises:
        typer.BadParameter: It is not such an address; the sentence names the flag.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise typer.BadParameter(f"{flag} '{text}' is not HOST:PORT, such as 127.0.0.1:9001")
    return host.removeprefix("[").removesuffix("]"), int(port)


def parse_route(text: str, ordinal: int) -> Route:
    """Read ``NAME=HOST:PORT[,model=ID][,status=stopped]``.

    Raises:
        typer.BadParameter: It is not such a text.
    """
    from tei_manager.routes import Route, RouteState

    name, _, rest = text.partition("=")
    address, *pairs = rest.split(",")
    host, port = parse_address(address, f"--route {name}:")
    known = {"model": "", "status": RouteState.RUNNING.value}
    for pair in pairs:
        key, _, value = pair.partition("=")
        if key not in known:
            raise typer.BadParameter(f"--route {name}: '{pair}' is not model=ID or status=STATE")
        known[key] = value
    try:
        state = RouteState(known["status"])
    except ValueError:
        states = ", ".join(RouteState)
        raise typer.BadParameter(f"--route {name}: status is one of {states}") from None
    if not name:
        raise typer.BadParameter(f"--route '{text}' needs a name: NAME=HOST:PORT")
    return Route(name, known["model"], host, port, state, ordinal, f"{name}@{address}")
