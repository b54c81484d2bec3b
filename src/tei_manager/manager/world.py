"""What the owner of one instance needs of its surroundings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tei_manager.manager.backlog import Backlog
from tei_manager.manager.flags import KnownFlags
from tei_manager.manager.instance import Record
from tei_manager.manager.launcher import Program
from tei_manager.manager.lifecycle import Backoff
from tei_manager.manager.store import Store
from tei_manager.settings import InstanceSpec, Settings

if TYPE_CHECKING:
    from tei_manager.manager.supervisor import Supervisor


class World(Protocol):
    """What a supervisor needs of its surroundings, which the registry is."""

    settings: Settings
    store: Store
    backlog: Backlog
    backoff: Backoff
    flags: KnownFlags

    def publish(self) -> None:
        """Send the present routes to the workers."""

    async def announce(self) -> None:
        """Send the present routes to the workers and wait, within a limit, until they know."""

    async def finish_calls(self, key: str, limit: float) -> None:
        """Wait, at most ``limit`` seconds, until no call is under way to a process.

        Args:
            key: Of its route, which was announced to take no more calls.
            limit: Seconds.
        """

    def with_free_ports(self, record: Record) -> Record:
        """Return the record with ports that can be bound now and that nobody else will get.

        Raises:
            TeiManagerError: A port that was asked for is taken, or none is free.
        """

    def program(self, spec: InstanceSpec) -> Program:
        """Return what serves an instance; an engine takes its part of the cores.

        Raises:
            LaunchFailed: The router is needed and not there.
        """

    async def look_up(self, address: str) -> str:
        """Return the IP address of an external instance's ``host:port``.

        Raises:
            TeiManagerError: It is not allowed.
            socket.gaierror: The name is not known, or not now.
        """

    async def forget(self, supervisor: Supervisor) -> None:
        """Remove a supervisor whose instance is gone, from the workers' tables, too."""
