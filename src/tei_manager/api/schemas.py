"""What the control API answers with, as it stands in the OpenAPI document."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tei_manager.manager.instance import HistoryEntry, Status
from tei_manager.manager.logfile import Lines
from tei_manager.routes import RouteState


class Answer(BaseModel):
    """Base of all answers: built by us, never changed."""

    model_config = ConfigDict(frozen=True)


class InstanceView(Answer):
    """One instance: what was asked for, and how it is."""

    name: str = Field(examples=["bge-small"])
    model_id: str = Field(examples=["BAAI/bge-small-en-v1.5"])
    status: RouteState
    status_reason: str = Field(description="Why it is in that status; may be empty.")
    backend: str = Field(description="tei, engine or external; auto until it was started.")
    address: str = Field(examples=["127.0.0.1:8081"])
    port: int
    prometheus_port: int
    pid: int | None
    created_at: datetime
    started_at: datetime | None
    uptime_secs: float | None
    restarts: int
    health_check_failures: int = Field(description="In a row.")
    last_health_check: datetime | None = Field(description="The last one that was answered.")
    gpu_id: int | None
    max_batch_tokens: int
    max_concurrent_requests: int
    pooling: str | None
    dtype: str | None
    revision: str | None
    startup_timeout_secs: float | None
    extra_args: list[str]
    autostart: bool
    origin: Literal["api", "file"] = Field(description="file: it belongs to the settings file.")

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
            address=f"{host}:{status.port}",
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

    lines: list[str]
    start: int
    end: int
    total_lines: int

    @classmethod
    def of(cls, found: Lines) -> LogsView:
        """Return the view of a slice."""
        return cls(lines=found.lines, start=found.start, end=found.end, total_lines=found.total)


class HistoryView(Answer):
    """Something that happened to an instance."""

    at: datetime
    event: str = Field(examples=["process ended"])
    detail: str

    @classmethod
    def of(cls, entry: HistoryEntry) -> HistoryView:
        """Return the view of an entry."""
        return cls(at=entry.at, event=entry.kind, detail=entry.detail)


class InstanceCount(Answer):
    """How many instances there are."""

    total: int
    running: int


class HealthView(Answer):
    """Whether calls on the multiplexer's port are served."""

    status: Literal["healthy", "unavailable"]
    version: str
    instances: InstanceCount
    workers: int


class ProblemView(Answer):
    """The one shape of every error."""

    error: str = Field(examples=["Instance 'bge-small' not found"])
    code: str = Field(examples=["INSTANCE_NOT_FOUND"])
    timestamp: datetime
