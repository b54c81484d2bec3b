"""What an instance is asked to be: one ``[[instance]]`` table, or the body of a create request."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from tei_manager.settings.external import split_address
from tei_manager.settings.types import Frozen, InstancePort, Seconds, Switch, text_like

# Names become file names and metric labels, so they hold nothing that a path or a label could
# read another way.
InstanceName = Annotated[
    str,
    *text_like(
        r"[a-z0-9][a-z0-9._-]{0,62}",
        "use 1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit",
    ),
]
# A hub id or a local directory; never something that could be read as a flag.
ModelId = Annotated[
    str,
    *text_like(
        r"[A-Za-z0-9_./~][^\x00-\x1f\x7f-\x9f]{0,511}",
        "write the hub id, such as BAAI/bge-small-en-v1.5, or the path of a folder",
    ),
]
Revision = Annotated[
    str,
    *text_like(
        r"[A-Za-z0-9][A-Za-z0-9._/-]{0,254}",
        "write a branch, tag or commit, which begins with a letter or digit",
    ),
]

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


class InstanceSpec(Frozen):
    """One instance, as somebody asks for it."""

    name: InstanceName = Field(
        examples=["bge-small"],
        description="1 to 63 of a-z, 0-9, '.', '_' and '-', the first a letter or digit.",
    )
    model_id: ModelId = Field(
        examples=["BAAI/bge-small-en-v1.5"], description="Hub id, or folder of a local model."
    )
    port: InstancePort | None = Field(
        default=None, description="Of its gRPC server; chosen from the range if absent."
    )
    gpu_id: Annotated[int, Field(strict=True, ge=0, le=1023)] | None = Field(
        default=None, description="Index among the GPUs that the manager may see."
    )
    max_batch_tokens: Annotated[int, Field(strict=True, ge=1, le=2**31)] = Field(
        default=16384, description="Tokens that the server computes at once."
    )
    max_concurrent_requests: Annotated[int, Field(strict=True, ge=1, le=2**20)] = Field(
        default=512, description="Requests that the server holds before it refuses more."
    )
    pooling: Literal["cls", "mean", "splade", "last-token"] | None = Field(
        default=None, description="cls, mean, splade or last-token; as the model says if absent."
    )
    dtype: Literal["float16", "float32", "bfloat16"] | None = Field(
        default=None,
        description="float16, float32 or bfloat16; as the server chooses if absent.",
    )
    revision: Revision | None = Field(default=None, description="Of the model on the hub.")
    prometheus_port: InstancePort | None = Field(
        default=None,
        description="Of the server's own metrics; chosen from the range if absent. An external "
        "instance without it has none.",
    )
    startup_timeout_secs: Seconds | None = Field(
        default=None, description="Instead of ``[instances] startup_timeout_secs``."
    )
    extra_args: tuple[str, ...] = Field(
        default=(),
        max_length=64,
        description="Further flags of the server, each as --flag or --flag=value.",
        examples=[["--auto-truncate"]],
    )
    backend: Literal["auto", "tei", "engine", "external"] = Field(
        default="auto",
        description="tei, engine, external, or auto: text-embeddings-router, and the built-in "
        "engine where that is missing.",
    )
    address: str | None = Field(
        default=None,
        description="host:port, for backend external only: a loopback address, or what "
        "``[instances] external_hosts`` allows.",
    )
    api_key_file: str | None = Field(
        default=None, description="File whose first line is sent to the instance as bearer token."
    )
    autostart: Switch = Field(default=True, description="Start it as soon as it exists.")

    @model_validator(mode="after")
    def _consistent(self) -> InstanceSpec:
        if self.name.startswith("mux-worker-"):
            raise ValueError("names that begin with mux-worker- are the workers'; choose another")
        for argument in self.extra_args:
            _check_extra_argument(argument)
        if self.backend == "external":
            split_address(self.address or "")
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
