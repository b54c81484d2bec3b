"""What the control API answers with, as it stands in the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fastapi.openapi.models import Example
from pydantic import BaseModel, ConfigDict, Field

from tei_manager.manager.instance import HistoryEntry, Status
from tei_manager.manager.logfile import Lines
from tei_manager.routes import RouteState

CREATE_EXAMPLES: dict[str, Example] = {
    "hub": {
        "summary": "A model of the hub",
        "value": {"name": "bge-small", "model_id": "BAAI/bge-small-en-v1.5"},
    },
    "gpu": {
        "summary": "On the first GPU, with half precision",
        "value": {
            "name": "bge-large",
            "model_id": "BAAI/bge-large-en-v1.5",
            "gpu_id": 0,
            "dtype": "float16",
            "max_batch_tokens": 32768,
        },
    },
    "external": {
        "summary": "A server that runs already",
        "value": {
            "name": "mine",
            "model_id": "BAAI/bge-small-en-v1.5",
            "backend": "external",
            "address": "127.0.0.1:8080",
        },
    },
}
"""Bodies of create requests, for the documentation."""

MOMENT = "2026-01-31T12:00:00.000000Z"


class Answer(BaseModel):
    """Base of all answers: built by us, never changed."""

    model_config = ConfigDict(frozen=True)


class InstanceView(Answer):
    """One instance: what was asked for, and how it is."""

    name: str = Field(examples=["bge-small"])
    model_id: str = Field(examples=["BAAI/bge-small-en-v1.5"])
    status: RouteState = Field(examples=["running"])
    status_reason: str = Field(description="Why it is in that status; may be empty.", examples=[""])
    backend: str = Field(
        description="tei, engine or external; auto until it was started.", examples=["tei"]
    )
    address: str = Field(
        description="Of its gRPC server; that of an external one as it was given.",
        examples=["127.0.0.1:8081"],
    )
    port: int = Field(description="Of its gRPC server.", examples=[8081])
    prometheus_port: int = Field(
        description="Of its own metrics; 0 for an external one without.", examples=[9100]
    )
    pid: int | None = Field(description="Of its process, while there is one.", examples=[4711])
    created_at: datetime = Field(examples=[MOMENT])
    started_at: datetime | None = Field(description="Its process.", examples=[MOMENT])
    uptime_secs: float | None = Field(description="Since started_at.", examples=[86.4])
    restarts: int = Field(description="Starts after the first, in its whole life.", examples=[0])
    health_check_failures: int = Field(description="In a row.", examples=[0])
    last_health_check: datetime | None = Field(
        description="The last one that was answered.", examples=[MOMENT]
    )
    gpu_id: int | None = Field(examples=[0])
    max_batch_tokens: int = Field(examples=[16384])
    max_concurrent_requests: int = Field(examples=[512])
    pooling: str | None = Field(examples=["mean"])
    dtype: str | None = Field(examples=["float16"])
    revision: str | None = Field(examples=["main"])
    startup_timeout_secs: float | None = Field(
        description="If it is not that of the settings.", examples=[300.0]
    )
    extra_args: list[str] = Field(examples=[["--auto-truncate"]])
    autostart: bool = Field(examples=[True])
    origin: Literal["api", "file"] = Field(
        description="file: it belongs to the settings file.", examples=["api"]
    )

    @classmethod
    def of(cls, status: Status) -> InstanceView:
        """Return what is shown of a snapshot; the file of an API key is not."""
        record = status.record
        spec = record.spec
        up = (datetime.now(UTC) - status.started_at) if status.started_at else None
        host = f"[{status.host}]" if ":" in status.host else status.host
        shown = spec.model_dump(exclude={"api_key_file", "port", "prometheus_port", "backend",
                                         "address"})  # fmt: skip
        return cls(
            **shown,
            status=status.state,
            status_reason=status.reason,
            backend=status.backend,
            address=spec.address or f"{host}:{status.port}",
            port=status.port,
            prometheus_port=record.prometheus_port,
            pid=status.pid,
            created_at=record.created_at,
            started_at=status.started_at,
            uptime_secs=max(0.0, round(up.total_seconds(), 3)) if up is not None else None,
            restarts=record.restarts,
            health_check_failures=status.health_check_failures,
            last_health_check=status.last_health_check,
            origin=record.origin.value,
        )


class LogsView(Answer):
    """``lines[start:end]`` of a log, with the resolved numbers."""

    lines: list[str] = Field(examples=[["Starting model backend", "Ready"]])
    start: int = Field(description="Number of the first line given.", examples=[40])
    end: int = Field(description="Number after the last line given.", examples=[42])
    total_lines: int = Field(examples=[42])

    @classmethod
    def of(cls, found: Lines) -> LogsView:
        """Return the view of a slice."""
        return cls(lines=found.lines, start=found.start, end=found.end, total_lines=found.total)


class HistoryView(Answer):
    """Something that happened to an instance."""

    at: datetime = Field(examples=[MOMENT])
    event: str = Field(examples=["process ended"])
    detail: str = Field(examples=["exited with code 1"])

    @classmethod
    def of(cls, entry: HistoryEntry) -> HistoryView:
        """Return the view of an entry."""
        return cls(at=entry.at, event=entry.kind, detail=entry.detail)


class InstanceCount(Answer):
    """How many instances there are."""

    total: int = Field(examples=[3])
    running: int = Field(examples=[2])


class HealthView(Answer):
    """Whether calls on the multiplexer's port are served."""

    status: Literal["healthy", "degraded", "unavailable"] = Field(
        description="`degraded`: calls are served, but the state file cannot be written.",
        examples=["healthy"],
    )
    version: str = Field(examples=["0.1.0"])
    instances: InstanceCount
    workers: int = Field(description="That serve now.", examples=[1])


class ProblemView(Answer):
    """The one shape of every error."""

    error: str = Field(examples=["Instance 'bge-small' not found"])
    code: str = Field(examples=["INSTANCE_NOT_FOUND"])
    timestamp: datetime = Field(examples=[MOMENT])
