"""All instances: creates, finds and removes them, gives out ports, publishes route tables."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable
from dataclasses import replace

from tei_manager.errors import (
    InstanceExists,
    InstanceNotFound,
    InvalidInstanceState,
    MaxInstancesReached,
    PortConflict,
    TeiManagerError,
)
from tei_manager.manager import external, gpus, ports
from tei_manager.manager.backlog import Backlog
from tei_manager.manager.flags import KnownFlags
from tei_manager.manager.instance import Desired, Origin, Record, Status
from tei_manager.manager.launcher import (
    Program,
    environment,
    find_program,
    read_api_key,
    runs_engine,
)
from tei_manager.manager.lifecycle import Backoff, Event
from tei_manager.manager.process import GroupProcess
from tei_manager.manager.store import Store
from tei_manager.manager.strays import end_strays
from tei_manager.manager.supervisor import Supervisor
from tei_manager.manager.workers import Workers
from tei_manager.resolver import Resolver
from tei_manager.routes import Route, RouteTable
from tei_manager.settings import AllowList, InstanceSpec, Settings
from tei_manager.telemetry.exposition import InstanceFigures

log = logging.getLogger(__name__)

# The control API and the multiplexer of a default installation, wherever this one listens.
_NEVER = frozenset({9000, 9001})

# How long workers that serve go on with the table of an earlier manager, until it is known whether
# the instances that it left are still well. A first probe takes milliseconds.
_FOUND_LIMIT = 5.0

# Claims the ports of a trial; no instance can have this name.
_SPARE = "_trial"

# Names whose creations and deletions are counted; above it the oldest is dropped.
_NAMES_COUNTED = 1000


class Registry:
    """All instances that exist.

    Args:
        settings: The manager's.
        store: Open; stays the caller's to close.
        workers: Started; stays the caller's to stop.
        own_ports: Ports that the manager itself listens on.
        backoff: Between attempts to start an instance that crashes.

    Ownership:
        `close` ends every instance's process and task.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        workers: Workers,
        own_ports: Iterable[int] = (),
        backoff: Backoff | None = None,
    ) -> None:
        self.settings = settings
        self.store = store
        self.backlog = Backlog(store)
        self.workers = workers
        self.backoff = backoff or Backoff()
        self.flags = KnownFlags()
        self._resolver = Resolver()
        self._own_ports = _NEVER | set(own_ports)
        self._supervisors: dict[str, Supervisor] = {}
        self._creating = asyncio.Lock()
        self._tasks: set[asyncio.Task[Supervisor]] = set()
        self._version = 0
        self._published: tuple[list[Route], str] | None = None
        self._restored = False
        self._found: list[Supervisor] = []
        self._counted: dict[str, tuple[int, int]] = {}
        self._claims: dict[str, tuple[int, int]] = {}

    def __repr__(self) -> str:
        return f"<Registry: {list(self._supervisors.values())}>"

    def statuses(self) -> list[Status]:
        """Return a snapshot of every instance, in order of creation."""
        statuses = [supervisor.status for supervisor in self._supervisors.values()]
        return sorted(statuses, key=lambda status: status.record.ordinal)

    def get(self, name: str) -> Supervisor:
        """Return the owner of an instance.

        Raises:
            InstanceNotFound: There is none of this name.
        """
        try:
            return self._supervisors[name]
        except KeyError:
            raise InstanceNotFound(name) from None

    async def create(self, spec: InstanceSpec, origin: Origin = Origin.API) -> Supervisor:
        """Make an instance, written down before this returns, and start it if it says so.

        Raises:
            TeiManagerError: It cannot exist beside the others or could never be started; nothing
                has been made.

        Cancellation:
            Stops the waiting only, so that no half of an instance is left behind.
        """
        task = asyncio.create_task(self._create(spec, origin), name=f"create {spec.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _create(self, spec: InstanceSpec, origin: Origin) -> Supervisor:
        await gpus.get_counted(spec.gpu_id)
        async with self._creating:
            self._check(spec)
            supervisor = self._adopt(await self._insert(spec, origin))
        created, deleted = self._counted.pop(spec.name, (0, 0))
        self._counted[spec.name] = created + 1, deleted
        if len(self._counted) > _NAMES_COUNTED:
            del self._counted[next(iter(self._counted))]
        if spec.autostart:
            await supervisor.request(Event.START, granted=True)
        return supervisor

    async def _insert(self, spec: InstanceSpec, origin: Origin) -> Record:
        """Write down a new instance with ports of its own; on failure nobody keeps them."""
        external = spec.backend == "external"
        port, metrics_port = (0, spec.prometheus_port or 0) if external else self._ports(spec)
        desired = Desired.RUNNING if spec.autostart else Desired.STOPPED
        try:
            return await self.store.insert(spec, port, metrics_port, desired, origin)
        except TeiManagerError:
            self._claims.pop(spec.name, None)
            raise

    def _check(self, spec: InstanceSpec) -> None:
        if spec.name in self._supervisors:
            raise InstanceExists(spec.name)
        limit = self.settings.instances.max
        if len(self._supervisors) >= limit:
            raise MaxInstancesReached(
                f"There are {limit} instances already; delete one or raise [instances] max"
            )
        api_key = read_api_key(spec.api_key_file)
        if spec.backend == "external":
            external.check(spec.address or "", self._allowed, self._own_ports, spec.prometheus_port)
        else:
            self.program(spec)
            environment(spec, os.environ, api_key)

    @property
    def _allowed(self) -> AllowList:
        return AllowList(self.settings.instances.external_hosts)

    async def look_up(self, address: str) -> str:
        """Return the IP address of an external instance (see `supervisor.World`)."""
        return await external.look_up(address, self._allowed, self._own_ports, self._resolver)

    def _adopt(self, record: Record) -> Supervisor:
        supervisor = Supervisor(record, self)
        self._supervisors[supervisor.name] = supervisor
        supervisor.start()
        self.publish()
        return supervisor

    def _ports(self, spec: InstanceSpec) -> tuple[int, int]:
        """Return ports for the server and its metrics that are free and nobody else's."""
        rules, taken = self.settings.instances, self._taken(spec.name)
        for wanted in (spec.port, spec.prometheus_port):
            if wanted is not None and (wanted in taken or not ports.is_free(wanted)):
                raise PortConflict(f"Port {wanted} is in use; choose another or leave it out")
            taken.add(wanted or 0)
        if spec.port is not None and spec.port == spec.prometheus_port:
            raise PortConflict("port and prometheus_port are the same; change one of them")
        port = spec.port or ports.choose(range(rules.port_start, rules.port_end + 1), taken)
        metrics = range(rules.metrics_port_start, rules.metrics_port_end + 1)
        metrics_port = spec.prometheus_port or ports.choose(metrics, taken | {port})
        self._claims[spec.name] = port, metrics_port
        return port, metrics_port

    def spare_ports(self) -> tuple[int, int]:
        """Return ports for a server and its metrics that no instance has or gets.

        Raises:
            PortAllocationFailed: There are none.

        Ownership:
            One pair at a time; `return_spare_ports` gives it back.
        """
        spec = InstanceSpec(name="trial", model_id="trial")
        return self._ports(spec.model_copy(update={"name": _SPARE}))

    def return_spare_ports(self) -> None:
        """Let instances have the ports of `spare_ports` again."""
        self._claims.pop(_SPARE, None)

    def _taken(self, but: str) -> set[int]:
        """Return the ports of all others, those that are given out but not yet written included."""
        records = [s.record for s in self._supervisors.values() if s.name != but]
        claimed = {port for record in records for port in (record.port, record.prometheus_port)}
        given = (pair for name, pair in self._claims.items() if name != but)
        return claimed.union(self._own_ports, *given)

    def with_free_ports(self, record: Record) -> Record:
        """Return the record with ports that can be bound now (see `supervisor.World`)."""
        if ports.is_free(record.port) and ports.is_free(record.prometheus_port):
            return record
        port, metrics_port = self._ports(record.spec)
        return replace(record, port=port, prometheus_port=metrics_port)

    def program(self, spec: InstanceSpec) -> Program:
        """Return what serves an instance (see `supervisor.World`)."""
        binary = self.settings.instances.tei_binary
        others = sum(runs_engine(other, binary) for other in self._others(spec.name))
        return find_program(spec, binary, 1 + others)

    def _others(self, name: str) -> list[InstanceSpec]:
        """Return all other instances that are to run, those that are yet to be made included."""
        records = [supervisor.record for supervisor in self._supervisors.values()]
        known = {record.spec.name for record in records} | {name}
        running = [r.spec for r in records if r.desired is Desired.RUNNING and r.spec.name != name]
        return running + [
            spec for spec in self.settings.instance if spec.autostart and spec.name not in known
        ]

    async def delete(self, name: str) -> None:
        """End an instance and remove it, unless it is the settings file's; see `remove`.

        Raises:
            InvalidInstanceState: It belongs to the settings file.
        """
        if self.get(name).record.origin is Origin.FILE:
            raise InvalidInstanceState(
                f"Instance '{name}' belongs to the settings file; remove its [[instance]] there"
            )
        await self.remove(name)

    async def remove(self, name: str) -> None:
        """End an instance and remove it; returns when its process is gone.

        Raises:
            InstanceNotFound: There is none of this name.
            StateFailed: It could not be removed from the store; it is stopped.

        Cancellation:
            Stops the waiting only.
        """
        supervisor = self.get(name)
        await supervisor.request(Event.DELETE)
        await supervisor.deleted()

    async def forget(self, supervisor: Supervisor) -> None:
        """Remove an instance that is gone (see `supervisor.World`)."""
        del self._supervisors[supervisor.name]
        self._claims.pop(supervisor.name, None)
        created, deleted = self._counted.get(supervisor.name, (0, 0))
        self._counted[supervisor.name] = created, deleted + 1
        self.workers.forget(supervisor.name)
        await self.announce()

    def publish(self) -> None:
        """Send the workers a table of all routes as they are now, unless they have it.

        Before `restore` has ended no table is sent: a worker takes clients once it has one, and
        with half of the routes it would tell callers that the others do not exist.
        """
        if not self._restored:
            return
        routes = [supervisor.route() for supervisor in self._supervisors.values()]
        content = routes, self.settings.grpc.default_instance
        if content == self._published:
            return
        self._published = content
        self._version += 1
        self.workers.publish(RouteTable(self._version, *content))

    async def announce(self) -> None:
        """Publish, and wait within a limit until every worker that serves has the table."""
        self.publish()
        if self._restored:
            await self.workers.acknowledged(self._version)

    async def finish_calls(self, key: str, limit: float) -> None:
        """Wait until a process has no more calls (see `supervisor.World`)."""
        await self.workers.finished(key, limit)

    async def restore(self) -> None:
        """Bring back the instances of the store and of the settings file.

        The file owns its instances: one that it no longer has is removed, one that it changed is
        replaced. All others come back as they were last wanted. Only where workers of an earlier
        manager serve, the instances that still run are waited for, within a limit: a table that
        calls them ``starting`` would fail calls that have been served all the time.
        """
        try:
            await self._restore()
            if self.workers.adopted:
                await asyncio.gather(*(s.settled(_FOUND_LIMIT) for s in self._found))
        finally:
            self._restored = True
            self.publish()

    async def _restore(self) -> None:
        wanted = {spec.name: spec for spec in self.settings.instance}
        back: list[Record] = []
        records = await self.store.records()
        await end_strays(self.store.path.parent, records)
        for record in records:
            spec = wanted.get(record.spec.name)
            if spec == record.spec and record.origin is Origin.API:
                record = replace(record, origin=Origin.FILE)
                await self.store.update(record)
            if spec == record.spec or (spec is None and record.origin is Origin.API):
                wanted.pop(record.spec.name, None)
                back.append(record)
            else:
                await self._end_leftover(record)
                await self.store.delete(record)
        # Beside each other: a name server that does not answer holds up one instance only.
        await asyncio.gather(*map(self._bring_back, back))
        for spec in wanted.values():
            try:
                await self.create(spec, Origin.FILE)
            except TeiManagerError as error:
                log.error(
                    "Instance '%s' of the settings file: %s", spec.name, error,
                    extra={"instance": spec.name},
                )  # fmt: skip

    async def _bring_back(self, record: Record) -> None:
        supervisor = self._adopt(record)
        restored = self.settings.state.restore or record.origin is Origin.FILE
        if record.desired is Desired.RUNNING and restored:
            status = await supervisor.request(Event.START)
            ran = record.runtime is not None and status.pid == record.runtime.pid
            if ran or record.spec.backend == "external":
                self._found.append(supervisor)
        else:
            await self._end_leftover(record)

    @staticmethod
    async def _end_leftover(record: Record) -> None:
        """Kill what an earlier manager, killed itself, left running though nobody wants it."""
        if (process := GroupProcess.adopt(record.runtime)) is not None:
            name = record.spec.name
            log.warning("Instance '%s': killing its leftover process", name,
                        extra={"instance": name})  # fmt: skip
            await process.end(0)

    def figures(self) -> list[InstanceFigures]:
        """Return what is counted for each instance that exists."""
        return [
            InstanceFigures(
                status.name,
                status.record.spec.model_id,
                status.state.value,
                *self._counted.get(status.name, (0, 0)),
                status.record.restarts,
                status.probe_failures,
            )
            for status in self.statuses()
        ]

    async def close(self, grace: float, leave: bool = False) -> None:
        """End all instances at the same time.

        Args:
            grace: Seconds that each gets before SIGKILL.
            leave: Leave the processes running for the next manager instead.
        """
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.backlog.close()  # what is written down then can be left
        await asyncio.gather(*(s.close(grace, leave) for s in self._supervisors.values()))
        await self.backlog.close()

    def kill(self) -> None:
        """Kill all instances at once; `close` still has to be awaited."""
        for supervisor in self._supervisors.values():
            supervisor.kill()
