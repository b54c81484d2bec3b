"""Every setting of the product as frozen values, and the reading of them.

Precedence: defaults < TOML file < environment < flags. `load` never stops at the first mistake:
it gathers all of them, each with file and line where there is one, and an unknown key names the
nearest known key. Nothing here starts, opens or binds anything.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tei_manager.errors import InvalidSettings

APP = "tei-manager"

# 0 lets the system choose, for tests and for several managers on one machine.
ListenPort = Annotated[int, Field(strict=True, ge=0, le=65535)]
InstancePort = Annotated[int, Field(strict=True, ge=1024, le=65535)]
Count = Annotated[int, Field(strict=True, ge=1)]
Seconds = Annotated[float, Field(strict=True, gt=0, le=86400)]
Switch = Annotated[bool, Field(strict=True)]

# Names become file names and metric labels: requirement C7 of research/reliability.md.
InstanceName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]
# A hub id or a local directory; never something that could be read as a flag.
ModelId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_./~][^\x00-\x1f\x7f]{0,511}$")]
Revision = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,254}$")]

MANAGED_FLAGS = (
    "--model-id",
    "--revision",
    "--dtype",
    "--pooling",
    "--max-batch-tokens",
    "--max-concurrent-requests",
    "--hostname",
    "--port",
    "--prometheus-port",
    "--uds-path",
    "--json-output",
    "--api-key",
    "--hf-token",
    "--hf-api-token",
    "--huggingface-hub-cache",
    "--otlp-endpoint",
    "--cors-allow-origin",
)
"""Flags of the router that the manager sets itself, or that move data or secrets elsewhere."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=False)


class ApiSettings(_Frozen):
    """``[api]``: where the control API listens."""

    host: str = "127.0.0.1"
    port: ListenPort = 9000
    allowed_hosts: tuple[str, ...] = ()
    allow_insecure: Switch = False


class GrpcSettings(_Frozen):
    """``[grpc]``: the multiplexer; all but the address and the worker count goes to workers."""

    host: str = "127.0.0.1"
    multiplexer_port: ListenPort = 9001
    max_parallel_streams: Count = 1024
    request_timeout_secs: Annotated[float, Field(strict=True, ge=0, le=86400)] = 30
    max_message_mb: Count = 64
    memory_limit_mb: Count = 512
    default_instance: str = ""
    workers: Annotated[int, Field(strict=True, ge=1, le=64)] = 1


class InstancesSettings(_Frozen):
    """``[instances]``: what holds for every instance. Port ranges include both ends."""

    port_start: InstancePort = 8081
    port_end: InstancePort = 8181
    metrics_port_start: InstancePort = 9100
    metrics_port_end: InstancePort = 9300
    max: Count = 64
    tei_binary: str = "text-embeddings-router"
    log_dir: Path = Field(default_factory=lambda: platformdirs.user_log_path(APP))
    startup_timeout_secs: Seconds = 300
    stop_timeout_secs: Seconds = 30
    on_exit: Literal["stop", "leave"] = "stop"


class HealthSettings(_Frozen):
    """``[health]``: how often instances are probed; 0 failures means never restart."""

    interval_secs: Seconds = 10
    failures_before_restart: Annotated[int, Field(strict=True, ge=0)] = 3


class StateSettings(_Frozen):
    """``[state]``: the SQLite file. Its folder also holds the lock and the workers' sockets."""

    path: Path = Field(default_factory=lambda: platformdirs.user_state_path(APP) / "state.db")
    restore: Switch = True


class LogSettings(_Frozen):
    """``[log]``: the manager's own log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "console", "json"] = "auto"
    access: Switch = False


class InstanceSpec(_Frozen):
    """What somebody asked for: one ``[[instance]]`` table, or the body of a create request."""

    name: InstanceName = Field(examples=["bge-small"])
    model_id: ModelId = Field(examples=["BAAI/bge-small-en-v1.5"])
    port: InstancePort | None = Field(default=None, description="Chosen from the range if absent.")
    gpu_id: Annotated[int, Field(strict=True, ge=0, le=1023)] | None = Field(
        default=None, description="Index among the GPUs that the manager may see."
    )
    max_batch_tokens: Annotated[int, Field(strict=True, ge=1, le=2**31)] = 16384
    max_concurrent_requests: Annotated[int, Field(strict=True, ge=1, le=2**20)] = 512
    pooling: Literal["cls", "mean", "splade", "last-token"] | None = None
    dtype: Literal["float16", "float32", "bfloat16"] | None = None
    revision: Revision | None = None
    prometheus_port: InstancePort | None = None
    startup_timeout_secs: Seconds | None = None
    extra_args: tuple[str, ...] = Field(
        default=(), description="Further flags of the server, each as --flag or --flag=value."
    )
    backend: Literal["auto", "tei", "engine", "external"] = "auto"
    address: str | None = Field(default=None, description="host:port, for backend external only.")
    api_key_file: str | None = Field(
        default=None, description="File whose first line is sent to the instance as bearer token."
    )
    autostart: Switch = True

    @model_validator(mode="after")
    def _consistent(self) -> InstanceSpec:
        if self.name.startswith("mux-worker-"):
            raise ValueError("names that begin with mux-worker- are the workers'; choose another")
        for argument in self.extra_args:
            _check_extra_argument(argument)
        if self.backend == "external":
            loopback_address(self.address or "")
        elif self.address is not None:
            raise ValueError("address is for backend 'external' only; remove it")
        return self


def _check_extra_argument(argument: str) -> None:
    """Refuse what could change a managed flag: also a prefix of one, which parsers may complete."""
    flag = argument.partition("=")[0]
    if not re.fullmatch(r"--[a-z0-9][a-z0-9-]*", flag) or not argument.isprintable():
        raise ValueError(f"extra_args: write '{argument[:64]}' as --flag or --flag=value")
    if any(managed.startswith(flag) for managed in MANAGED_FLAGS):
        raise ValueError(f"extra_args: {flag} is set by the manager; remove it")


def loopback_address(address: str) -> tuple[str, int]:
    """Split ``host:port`` of an external instance; only loopback addresses are allowed.

    Raises:
        ValueError: It is not such an address; the sentence says what to write.
    """
    host, _, port = address.rpartition(":")
    host = "127.0.0.1" if host == "localhost" else host.strip("[]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("address must be host:port on a loopback address, such as 127.0.0.1:8080")
    return host, int(port)


class Settings(_Frozen):
    """All settings. ``instance`` holds the ``[[instance]]`` tables in the order of the file."""

    api: ApiSettings = ApiSettings()
    grpc: GrpcSettings = GrpcSettings()
    instances: InstancesSettings = Field(default_factory=InstancesSettings)
    health: HealthSettings = HealthSettings()
    state: StateSettings = Field(default_factory=StateSettings)
    log: LogSettings = LogSettings()
    instance: tuple[InstanceSpec, ...] = ()


ENVIRONMENT: dict[str, tuple[str, str]] = {
    "TEI_MANAGER_API_HOST": ("api", "host"),
    "TEI_MANAGER_API_PORT": ("api", "port"),
    "TEI_MANAGER_GRPC_HOST": ("grpc", "host"),
    "TEI_MANAGER_GRPC_PORT": ("grpc", "multiplexer_port"),
    "TEI_MANAGER_GRPC_MAX_STREAMS": ("grpc", "max_parallel_streams"),
    "TEI_BINARY_PATH": ("instances", "tei_binary"),
    "TEI_MANAGER_LOG_DIR": ("instances", "log_dir"),
    "TEI_MANAGER_STATE_FILE": ("state", "path"),
}
"""The environment variables that are read, and the section and key that each of them sets."""

Key = tuple[str, str]


def load(
    file: Path | None = None,
    environ: Mapping[str, str] = os.environ,
    flags: Mapping[Key, Any] | None = None,
) -> tuple[Settings, dict[Key, str]]:
    """Read the settings from all their sources.

    Args:
        file: A TOML file; no other place is searched.
        environ: Where `ENVIRONMENT` is looked up.
        flags: Values from the command line by section and key; they win.

    Returns:
        The settings, and for each value that is not a default where it came from.

    Raises:
        InvalidSettings: With one sentence for each mistake in any of the sources.
    """
    text = _read(file) if file else ""
    document = _parse(text, str(file)) if file else {}
    origins = _file_origins(document, text, str(file))
    over = {
        key: (_number(environ[name]), f"environment {name}")
        for name, key in ENVIRONMENT.items()
        if name in environ
    }
    over |= {key: (value, "command line") for key, value in (flags or {}).items()}
    for (section, name), (value, origin) in over.items():
        if isinstance(table := document.setdefault(section, {}), dict):
            table[name] = value
            origins[section, name] = origin
    return _validate(document, origins, text, str(file)), origins


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSettings([f"{file}: cannot be read ({error}); check --config"]) from error


def _parse(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+)", str(error))
        where = f"{file}:{found[1]}" if found else file
        raise InvalidSettings([f"{where}: not TOML: {error}"]) from error


def _number(value: str) -> int | str:
    return int(value) if re.fullmatch(r"-?[0-9]{1,18}", value) else value


def _file_origins(document: dict[str, Any], text: str, file: str) -> dict[Key, str]:
    return {
        (section, name): f"{file}:{_line(text, (section, name))}"
        for section, table in document.items()
        if isinstance(table, dict)
        for name in table
    }


def _line(text: str, path: tuple[str | int, ...]) -> int:
    """Return the line (from 1) of a key such as ``("instance", 1, "port")``, or of its table.

    Knows the layout that people write, tables in brackets with a key a line; for inline and
    dotted tables it gives the nearest line above.
    """
    section, index = str(path[0]), path[1] if len(path) > 1 else None
    key = str(path[-1])
    inside, seen, best = False, -1, 1
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[{1,2}\s*([^\]\s]+)\s*\]", line):
            same = header[1] == section
            seen += same
            inside = same and (not isinstance(index, int) or seen == index)
        elif not inside and not (len(path) == 1 and seen < 0):
            continue
        name = re.match(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""", line)
        if (name and name[1] == key) or (header and inside):
            best = number
            if name:
                break
    return best


def _validate(document: dict[str, Any], origins: dict[Key, str], text: str, file: str) -> Settings:
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        mistakes = []
        for detail in error.errors():
            loc = detail["loc"] or ("",)
            where = origins.get((str(loc[0]), str(loc[1]))) if len(loc) > 1 else None
            if where is None:
                where = f"{file}:{_line(text, loc)}"
            mistakes.append(f"{where}: {_sentence(loc, detail['type'], detail['msg'])}")
        raise InvalidSettings(mistakes) from error
    if mistakes := _contradictions(settings):
        raise InvalidSettings(mistakes)
    return settings


def _sentence(loc: tuple[str | int, ...], kind: str, message: str) -> str:
    names = [str(part) for part in loc]
    if kind != "extra_forbidden":
        return f"{'.'.join(names)}: {message.removeprefix('Value error, ')}"
    known = _known_keys(names[0] if len(names) > 1 else "")
    near = difflib.get_close_matches(names[-1], known, 1, 0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(sorted(known))}"
    return f"unknown key '{'.'.join(names)}'; {hint}"


def _known_keys(section: str) -> list[str]:
    if section == "instance":
        return list(InstanceSpec.model_fields)
    if section in Settings.model_fields:
        model = Settings.model_fields[section].annotation
        return list(model.model_fields) if isinstance(model, type(BaseModel)) else []
    return list(Settings.model_fields)


def _contradictions(settings: Settings) -> list[str]:
    """Return what is wrong between values that are each right by themselves."""
    out, api, grpc, rules = [], settings.api, settings.grpc, settings.instances
    if not is_loopback(api.host) and not api.allow_insecure:
        out.append(f"api.host = '{api.host}' opens an API without authentication to the network; "
                   "use 127.0.0.1 or set api.allow_insecure = true")  # fmt: skip
    if api.port and api.port == grpc.multiplexer_port:
        out.append(f"api.port and grpc.multiplexer_port are both {api.port}; change one of them")
    for prefix in ("", "metrics_"):
        start, end = getattr(rules, f"{prefix}port_start"), getattr(rules, f"{prefix}port_end")
        if start > end:
            out.append(f"instances.{prefix}port_start is above {prefix}port_end; swap them")
    names = [spec.name for spec in settings.instance]
    out += [f"two [[instance]] tables are named '{name}'; rename one of them"
            for name in sorted({name for name in names if names.count(name) > 1})]  # fmt: skip
    return out


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a listener bound to ``host``."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
