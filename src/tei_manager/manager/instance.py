"""What is known of one instance: its record, which is kept, and its status, which is shown."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from tei_manager.manager.process import Runtime
from tei_manager.routes import RouteState
from tei_manager.settings import InstanceSpec


class Desired(StrEnum):
    """What somebody last asked for, which a crash of anything does not change."""

    RUNNING = "running"
    STOPPED = "stopped"


class Origin(StrEnum):
    """Who owns an instance: the settings file's are changed and deleted there only."""

    API = "api"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Record:
    """What the store keeps of an instance.

    Args:
        spec: As it was asked for.
        ordinal: Order of creation; never used again.
        created_at: When, in UTC.
        port: Of the gRPC server; 0 for an external instance.
        prometheus_port: Of the server's own metrics; 0 for an external instance without them.
        desired: What somebody last asked for.
        origin: Who owns it.
        restarts: Starts after the first, over the whole life of the instance.
        runtime: The process that was started last; it may have ended since.
    """

    spec: InstanceSpec
    ordinal: int
    created_at: datetime
    port: int = 0
    prometheus_port: int = 0
    desired: Desired = Desired.RUNNING
    origin: Origin = Origin.API
    restarts: int = 0
    runtime: Runtime | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """A snapshot of an instance, as REST shows it; never changed, only replaced.

    Args:
        record: The record at that moment.
        state: As callers see it.
        reason: Why it is in that state, one sentence or the last lines of its log; empty if plain.
        backend: What serves it: ``tei``, ``engine`` or ``external``; as asked for until started.
        host: Address of its gRPC server.
        port: Port of its gRPC server.
        pid: Of its process, while there is one.
        started_at: When that process was started.
        health_check_failures: Probes in a row without an answer.
        probe_failures: All probes without an answer since the manager started.
        last_health_check: When a probe last had an answer.
    """

    record: Record
    state: RouteState = RouteState.STOPPED
    reason: str = ""
    backend: str = "auto"
    host: str = "127.0.0.1"
    port: int = 0
    pid: int | None = None
    started_at: datetime | None = None
    health_check_failures: int = 0
    probe_failures: int = 0
    last_health_check: datetime | None = None

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.record.spec.name


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """Something that happened to an instance: when, what, and why."""

    at: datetime
    kind: str
    detail: str
