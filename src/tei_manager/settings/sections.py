"""The tables of the settings file, with their defaults, and what contradicts what in them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import Field

from tei_manager.settings.external import AllowList, ExternalHost, split_address
from tei_manager.settings.instance import InstanceSpec
from tei_manager.settings.types import (
    Count,
    FileMode,
    Frozen,
    Host,
    InstancePort,
    ListenPort,
    Seconds,
    Switch,
    text_like,
)

APP = "tei-manager"

WebOrigin = Annotated[
    str,
    *text_like(
        r"https?://[0-9a-z._\[\]:-]+",
        "write an origin as a browser sends it, such as https://tools.example",
    ),
]


CertFile = Annotated[
    Path | None,
    Field(
        description="PEM; the server's certificate, then those between it and its CA. Turns TLS "
        "on, 1.2 and later. This and the next two files are read anew when they change."
    ),
]
KeyFile = Annotated[Path | None, Field(description="PEM; its key, without a password.")]
ClientCaFile = Annotated[
    Path | None,
    Field(description="PEM; clients need a certificate signed by one of the CAs in it."),
]
ClientNames = Annotated[
    tuple[str, ...],
    Field(
        description="Which of them may come in, by the subject alternative names of their "
        "certificates: host names, URIs, addresses, each exactly as it stands there. Empty for all."
    ),
]


class ApiSettings(Frozen):
    """The control API."""

    host: Host = Field(
        default="127.0.0.1",
        description="Address to listen on; one that others reach needs token_file.",
    )
    port: ListenPort = Field(default=9000, description="0 lets the system choose.")
    token_file: Path | None = Field(
        default=None,
        description="File of mode 0600 with a bearer token on each line, at least 16 characters "
        "long. Each of them is good for every request but GET /health and the documentation. It "
        "is read anew when it changes.",
    )
    requests_per_second: Annotated[float, Field(strict=True, ge=0, le=1e6)] = Field(
        default=20,
        description="Of one client address, and five seconds' worth at once; 0 is no limit. "
        "This machine's own programs are not limited.",
    )
    allowed_hosts: tuple[Host, ...] = Field(
        default=(),
        description="Names besides host and localhost by which clients may call the API.",
    )
    allow_insecure: Switch = Field(
        default=False, description="Listen for others without a token all the same."
    )
    cors_origins: tuple[WebOrigin, ...] = Field(
        default=(), description="Web sites whose pages may use the API; none by default."
    )
    tls_cert_file: CertFile = None
    tls_key_file: KeyFile = None
    tls_client_ca_file: ClientCaFile = None
    tls_client_names: ClientNames = ()


class GrpcSettings(Frozen):
    """The multiplexer."""

    host: Host = Field(default="127.0.0.1", description="Address to listen on.")
    multiplexer_port: ListenPort = Field(default=9001, description="0 lets the system choose.")
    max_parallel_streams: Count = Field(
        default=1024, description="Calls at a time on one client connection."
    )
    request_timeout_secs: Annotated[float, Field(strict=True, ge=0, le=86400)] = Field(
        default=30, description="For unary calls whose caller set no deadline; 0 is none."
    )
    max_message_mb: Count = Field(default=64, description="Largest request, MiB.")
    memory_limit_mb: Count = Field(
        default=512, description="Of one worker, MiB; above 80 % of it calls are refused."
    )
    default_instance: str = Field(
        default="", description="Where TEI's own clients go that name no instance."
    )
    passthrough: Literal["none", "any"] = Field(
        default="none",
        description="none, or any: calls of methods that are neither TEI's nor the multiplexer's "
        "go, as they come, to the instance that their metadata names.",
    )
    workers: Annotated[int, Field(strict=True, ge=1, le=64)] = Field(
        default=1, description="Processes that carry the calls."
    )
    token_file: Path | None = Field(
        default=None,
        description="File of mode 0600 with a bearer token on each line, 16 to 500 characters "
        "long. Each call but those of grpc.health.v1.Health needs one of them in its metadata. It "
        "is read anew when it changes.",
    )
    uds_path: Path | None = Field(
        default=None,
        description="Unix socket for clients on this machine, besides the port; without TLS.",
    )
    uds_mode: FileMode = Field(default="0600", description="Who may connect to it: its file mode.")
    tls_cert_file: CertFile = None
    tls_key_file: KeyFile = None
    tls_client_ca_file: ClientCaFile = None
    tls_client_names: ClientNames = ()


class InstancesSettings(Frozen):
    """What holds for every instance. Port ranges include both ends."""

    port_start: InstancePort = Field(default=8081, description="First port for gRPC servers.")
    port_end: InstancePort = Field(default=8181, description="Last port for gRPC servers.")
    metrics_port_start: InstancePort = Field(
        default=9100, description="First port for the servers' own metrics."
    )
    metrics_port_end: InstancePort = Field(
        default=9300, description="Last port for the servers' own metrics."
    )
    max: Count = Field(default=64, description="How many instances there may be.")
    tei_binary: str = Field(
        default="text-embeddings-router",
        description="Program of an instance; where it is missing, the built-in engine serves.",
    )
    log_dir: Path = Field(
        default_factory=lambda: platformdirs.user_log_path(APP),
        description="Folder of the instances' output.",
    )
    startup_timeout_secs: Seconds = Field(
        default=300, description="Until an instance must answer after its start."
    )
    stop_timeout_secs: Seconds = Field(
        default=30,
        description="Until a process that was asked to end is killed; half of it is for its calls.",
    )
    on_exit: Literal["stop", "leave"] = Field(
        default="stop",
        description="stop, or leave: SIGTERM leaves instances running for the next manager.",
    )
    model_dirs: tuple[Path, ...] = Field(
        default=(),
        description="Folders below which a create request may name a local model; [[instance]] "
        "tables may name any.",
    )
    api_key_dirs: tuple[Path, ...] = Field(
        default=(),
        description="Folders below which a create request may name an api_key_file; [[instance]] "
        "tables may name any.",
    )
    external_hosts: tuple[ExternalHost, ...] = Field(
        default=(),
        description="Where external instances may be besides this machine's loopback: names, "
        "addresses, networks such as 10.0.0.0/24, or * for any.",
    )


class ModelsSettings(Frozen):
    """Models of the Hugging Face cache."""

    min_free_mb: Annotated[int, Field(strict=True, ge=0, le=2**31)] = Field(
        default=1024, description="Of the disk, MiB; a download that would leave less is refused."
    )


class HealthSettings(Frozen):
    """How often instances are probed."""

    interval_secs: Seconds = Field(default=10, description="Between two probes.")
    failures_before_restart: Annotated[int, Field(strict=True, ge=0)] = Field(
        default=3, description="Probes in a row without an answer; 0 is never."
    )


class StateSettings(Frozen):
    """What outlives the manager."""

    path: Path = Field(
        default_factory=lambda: platformdirs.user_state_path(APP) / "state.db",
        description="SQLite file; its folder also has the lock and the workers' sockets.",
    )
    restore: Switch = Field(default=True, description="Start what ran when the last manager ended.")


class LogSettings(Frozen):
    """The manager's own log."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info",
        description="debug, info, warning or error; what is less important is not logged.",
    )
    format: Literal["auto", "console", "json"] = Field(
        default="auto", description="console, json, or auto: console on a terminal, else json."
    )
    access: Switch = Field(default=False, description="Log every request to the control API.")


class Settings(Frozen):
    """All settings. ``instance`` holds the ``[[instance]]`` tables in the order of the file."""

    api: ApiSettings = ApiSettings()
    grpc: GrpcSettings = GrpcSettings()
    instances: InstancesSettings = Field(default_factory=InstancesSettings)
    models: ModelsSettings = ModelsSettings()
    health: HealthSettings = HealthSettings()
    state: StateSettings = Field(default_factory=StateSettings)
    log: LogSettings = LogSettings()
    instance: tuple[InstanceSpec, ...] = ()


ENVIRONMENT: dict[str, tuple[str, str]] = {
    "TEI_MANAGER_API_HOST": ("api", "host"),
    "TEI_MANAGER_API_PORT": ("api", "port"),
    "TEI_MANAGER_API_TOKEN_FILE": ("api", "token_file"),
    "TEI_MANAGER_API_ALLOW_INSECURE": ("api", "allow_insecure"),
    "TEI_MANAGER_API_TLS_CERT_FILE": ("api", "tls_cert_file"),
    "TEI_MANAGER_API_TLS_KEY_FILE": ("api", "tls_key_file"),
    "TEI_MANAGER_API_TLS_CLIENT_CA_FILE": ("api", "tls_client_ca_file"),
    "TEI_MANAGER_GRPC_HOST": ("grpc", "host"),
    "TEI_MANAGER_GRPC_PORT": ("grpc", "multiplexer_port"),
    "TEI_MANAGER_GRPC_MAX_STREAMS": ("grpc", "max_parallel_streams"),
    "TEI_MANAGER_GRPC_TOKEN_FILE": ("grpc", "token_file"),
    "TEI_MANAGER_GRPC_UDS_PATH": ("grpc", "uds_path"),
    "TEI_MANAGER_GRPC_TLS_CERT_FILE": ("grpc", "tls_cert_file"),
    "TEI_MANAGER_GRPC_TLS_KEY_FILE": ("grpc", "tls_key_file"),
    "TEI_MANAGER_GRPC_TLS_CLIENT_CA_FILE": ("grpc", "tls_client_ca_file"),
    "TEI_BINARY_PATH": ("instances", "tei_binary"),
    "TEI_MANAGER_LOG_DIR": ("instances", "log_dir"),
    "TEI_MANAGER_ON_EXIT": ("instances", "on_exit"),
    "TEI_MANAGER_STATE_FILE": ("state", "path"),
}
"""The environment variables that are read, and the section and key that each of them sets."""

Location = tuple[str | int, ...]
"""Where a value stands, such as ``("instance", 1, "name")``."""


def contradictions(settings: Settings) -> Iterator[tuple[Location, str]]:
    """Yield what is wrong between values that are each right by themselves.

    Yields:
        The path of the value to change, such as ``("instance", 1, "name")``, and a sentence.
    """
    yield from _address_mistakes(settings)
    for section in ("api", "grpc"):
        yield from _tls_mistakes(section, getattr(settings, section))
    rules = settings.instances
    for prefix in ("", "metrics_"):
        start, end = f"{prefix}port_start", f"{prefix}port_end"
        if getattr(rules, start) > getattr(rules, end):
            yield ("instances", start), f"instances.{start} is above {end}; swap them"
    if len(settings.instance) > rules.max:
        count = len(settings.instance)
        sentence = f"there are {count} [[instance]] tables, above instances.max = {rules.max}"
        yield ("instance", rules.max), f"{sentence}; remove some or raise it"
    yield from _claimed_twice(settings)
    yield from _hosts_not_allowed(settings)


def _address_mistakes(settings: Settings) -> Iterator[tuple[Location, str]]:
    api, grpc = settings.api, settings.grpc
    guarded = api.token_file or (api.tls_client_ca_file and api.tls_cert_file)
    if not is_loopback(api.host) and not guarded and not api.allow_insecure:
        yield (
            ("api", "host"),
            (
                f"api.host = '{api.host}' opens an API without authentication to the network; "
                "set api.token_file or api.tls_client_ca_file, use 127.0.0.1, or set "
                "api.allow_insecure = true"
            ),
        )
    if api.port and api.port == grpc.multiplexer_port:
        both = f"api.port and grpc.multiplexer_port are both {api.port}"
        yield ("api", "port"), f"{both}; change one of them"


def _tls_mistakes(
    section: str, rules: ApiSettings | GrpcSettings
) -> Iterator[tuple[Location, str]]:
    needs = (
        ("tls_cert_file", "tls_key_file"),
        ("tls_key_file", "tls_cert_file"),
        ("tls_client_ca_file", "tls_cert_file"),
        ("tls_client_names", "tls_client_ca_file"),
    )
    for key, needed in needs:
        if getattr(rules, key) and not getattr(rules, needed):
            yield (section, key), f"{section}.{key} needs {section}.{needed}; set it, too"


def _claimed_twice(settings: Settings) -> Iterator[tuple[Location, str]]:
    """Yield what two ``[[instance]]`` tables claim, or one and the manager itself."""
    names: set[str] = set()
    ports = {settings.api.port: "api.port", settings.grpc.multiplexer_port: "the multiplexer"}
    for index, spec in enumerate(settings.instance):
        if spec.name in names:
            sentence = f"two [[instance]] tables are named '{spec.name}'; rename one of them"
            yield ("instance", index, "name"), sentence
        names.add(spec.name)
        for key in ("port", "prometheus_port"):
            if (port := getattr(spec, key)) is None:
                continue
            if port in ports:
                sentence = f"port {port} is that of {ports[port]} already; choose another"
                yield ("instance", index, key), sentence
            ports[port] = f"instance '{spec.name}'"


def _hosts_not_allowed(settings: Settings) -> Iterator[tuple[Location, str]]:
    """Yield the external instances that ``instances.external_hosts`` does not allow."""
    allowed = AllowList(settings.instances.external_hosts)
    for index, spec in enumerate(settings.instance):
        if spec.address is not None:
            try:
                allowed.check(split_address(spec.address)[0])
            except ValueError as error:
                yield ("instance", index, "address"), f"address: {error}"


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener bound to ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
