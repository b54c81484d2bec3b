"""The flags of text-embeddings-router, so that one command line starts either program.

Every flag has TEI's environment twin: its name in upper case (``MAX_BATCH_TOKENS``). A flag comes
before the environment. Mistakes in either end the program with status 2 and one sentence. Flags of
TEI that have no meaning here are taken and do nothing: HTTP-only ones, the Python backend's socket,
and tracing. Two flags are ours: ``--engines`` and ``--intra-op-threads``.

Host names: TEI silently listens on 0.0.0.0 when ``--hostname`` is not an IP address. For the
environment that is kept, since containers set ``HOSTNAME`` to their own name; a flag that is
neither an address nor ``localhost`` is a mistake.
"""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tei_manager import __version__
from tei_manager.engine.cores import available_cores
from tei_manager.engine.model import DTYPES


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What the user asked for; see the help texts of `_ROWS`."""

    model_id: str
    revision: str | None
    tokenization_workers: int
    dtype: str
    pooling: str | None
    max_concurrent_requests: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    default_prompt_name: str | None
    default_prompt: str | None
    dense_path: str | None
    hf_token: str | None
    hostname: str
    port: int
    huggingface_hub_cache: str | None
    api_key: str | None = field(repr=False)
    json_output: bool
    prometheus_port: int
    intra_op_threads: int

    @property
    def cache(self) -> Path | None:
        """The hub's cache directory, ``None`` for its default."""
        return Path(self.huggingface_hub_cache) if self.huggingface_hub_cache else None


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise ValueError
    return value


def _boolean(text: str) -> bool:
    """Read ``true`` or ``false`` and nothing else, as TEI does."""
    return {"true": True, "false": False}[text]


def _address(text: str) -> str:
    if text == "localhost":
        return "127.0.0.1"
    return str(ipaddress.ip_address(text))


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise ValueError
    return text


def _pooling(text: str) -> str:
    if text not in ("cls", "mean", "splade", "last-token"):
        raise ValueError
    return text


@dataclass(frozen=True, slots=True)
class _Row:
    """One flag. ``wanted`` ends the sentence "``--name`` must be …"."""

    name: str
    read: Callable[[str], Any]
    wanted: str
    default: Any
    help: str


_IGNORED = "taken for TEI's sake; does nothing here"


def _text(name: str, help_: str, default: str | None = None) -> _Row:
    return _Row(name, str, "text", default, help_)


def _count(name: str, help_: str, default: int | None) -> _Row:
    return _Row(name, _positive, "a positive integer", default, help_)


def _switch(name: str, help_: str, default: bool = False) -> _Row:
    return _Row(name, _boolean, "true or false", default, help_)


_ROWS = (
    _text("model-id", "a model directory, or an id on the Hugging Face hub; required"),
    _text("revision", "branch, tag or commit on the hub"),
    _count("tokenization-workers", "threads that tokenise long texts; default: cores - 1", None),
    _Row(
        "dtype",
        _dtype,
        " or ".join((", ".join(DTYPES[:-1]), DTYPES[-1])),
        "float32",
        "what is not float32 must lie in the repository as a graph of its own",
    ),
    _Row("pooling", _pooling, "cls, mean, splade or last-token", None, "overrides the model's"),
    _count("max-concurrent-requests", "requests under way before unary calls are refused", 512),
    _count("max-batch-tokens", "padded tokens among which a batch is chosen", 16384),
    _count("max-batch-requests", "most texts in a batch", None),
    _count("max-client-batch-size", "most texts of one Rerank", 32),
    _switch("auto-truncate", "start even if the model takes more than --max-batch-tokens", True),
    _text("served-model-name", _IGNORED),
    _text("default-prompt-name", "prompt of the model put before every input"),
    _text("default-prompt", "text put before every input"),
    _text("dense-path", "folder of the Dense module, in the place of the model's"),
    _text("hf-token", "token for the hub"),
    _text("hf-api-token", "the old name of --hf-token"),
    _Row("hostname", _address, "an IP address or localhost", "0.0.0.0", "where to listen"),  # noqa: S104 -- TEI's default
    _Row("port", _port, "a port number", 3000, "gRPC port; 0 lets the system choose"),
    _text("uds-path", _IGNORED),
    _text("huggingface-hub-cache", "where models of the hub are kept"),
    _count("payload-limit", _IGNORED, 2_000_000),
    _text("api-key", "what callers must send as 'authorization: Bearer KEY'"),
    _switch("json-output", "log as JSON"),
    _switch("disable-spans", _IGNORED),
    _text("otlp-endpoint", _IGNORED),
    _text("otlp-service-name", _IGNORED),
    _Row("prometheus-port", _port, "a port number", 9000, "HTTP port of the metrics"),
    _text("cors-allow-origin", _IGNORED),
    _count("engines", "engines that share the cores; this one takes its part of them", 1),
    _count("intra-op-threads", "cores that one batch may use; default: all of its part", None),
)

_CONFLICTS = (("hf_token", "hf_api_token"), ("default_prompt", "default_prompt_name"))


def parse_flags(argv: Sequence[str] | None, environ: Mapping[str, str]) -> Flags:
    """Read the command line and the environment.

    Args:
        argv: Without the program's name; the process's own if ``None``.
        environ: Where the twins are looked up.

    Raises:
        SystemExit: With status 2 after a sentence on stderr; with 0 after ``--help`` or
            ``--version``.
    """
    parser = _parser()
    given = vars(parser.parse_args(argv))
    values = {_field(row): _value(parser, row, given[_field(row)], environ) for row in _ROWS}
    for left, right in _CONFLICTS:
        if values[left] is not None and values[right] is not None:
            parser.error(f"--{_flag(left)} and --{_flag(right)} exclude each other")
    if values["model_id"] is None:
        parser.error("--model-id is required")
    return _complete(values)


def _complete(values: dict[str, Any]) -> Flags:
    """Return the flags with the defaults that depend on the machine, and without the unused."""
    values["hf_token"] = values["hf_token"] or values["hf_api_token"]
    cores = values["intra_op_threads"] or max(1, available_cores() // values["engines"])
    values["intra_op_threads"] = cores
    values["tokenization_workers"] = values["tokenization_workers"] or min(max(cores - 1, 1), 64)
    return Flags(**{name: values[name] for name in Flags.__slots__})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tei-engine",
        description="Serve an embedding, rerank or classifier model over TEI's gRPC API.",
        epilog="Every flag can be set in the environment: MODEL_ID, PORT and so on.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tei-engine {__version__}")
    for row in _ROWS:
        names = [f"--{row.name}", "-p"] if row.name == "port" else [f"--{row.name}"]
        optional: dict[str, Any] = {}
        if row.read is _boolean:
            optional = {"nargs": "?", "const": "true"}
        default = "" if row.default is None else f" (default: {row.default})"
        parser.add_argument(*names, help=row.help + default, **optional)
    return parser


def _value(
    parser: argparse.ArgumentParser, row: _Row, given: str | None, environ: Mapping[str, str]
) -> Any:
    """Return a flag's value: the command line's, the environment's, or the default."""
    twin = _field(row).upper()
    text, source = (given, f"--{row.name}") if given is not None else (environ.get(twin), twin)
    if text is None:
        return row.default
    try:
        return row.read(text)
    except (ValueError, KeyError):
        if source == "HOSTNAME":
            return row.default
        parser.error(f"{source} must be {row.wanted}, not '{text}'")


def _field(row: _Row) -> str:
    return row.name.replace("-", "_")


def _flag(field_: str) -> str:
    return field_.replace("_", "-")
