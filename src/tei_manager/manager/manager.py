"""The whole control plane but its API: what is started in which order, and stopped in which.

Start: state file and lock, what an earlier manager left on port 9001 or the port itself, workers,
instances, and the end of workers that cannot stay. Each step needs the one before it, and one that
fails undoes them all. Stop: workers first, so that calls under way still find their
instances, then all instances at the same time, then the state file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from functools import reduce
from itertools import chain
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from tei_manager.manager.lifecycle import Backoff
from tei_manager.manager.models import Models
from tei_manager.manager.registry import Registry
from tei_manager.manager.reload import reload
from tei_manager.manager.scraper import Scraper, targets
from tei_manager.manager.store import Store
from tei_manager.manager.takeover import Takeover, take_over
from tei_manager.manager.workers import COMMAND, Workers
from tei_manager.settings import Settings, reloaded
from tei_manager.telemetry.counters import add
from tei_manager.telemetry.exposition import manager_families, render, worker_families
from tei_manager.tls import Certificates, Tls
from tei_manager.unix_socket import UnixAddress, remove

log = logging.getLogger(__name__)


class Manager:
    """The control plane.

    Args:
        settings: All of them.
        worker_command: What a multiplexer worker is; tests put a stand-in here.
        backoff: Between attempts to start an instance that crashes.

    Attributes:
        registry: All instances; there from `start` on.
        models: What this machine has and knows of models; there from `start` on.
        workers: The multiplexer workers; there from `start` on.

    Ownership:
        `start` makes everything; `stop` ends it, also after a start that failed or was cancelled.
    """

    registry: Registry
    models: Models
    workers: Workers

    def __init__(
        self,
        settings: Settings,
        worker_command: Sequence[str] = COMMAND,
        backoff: Backoff | None = None,
    ) -> None:
        self.settings = settings
        self._worker_command = worker_command
        self._backoff = backoff
        self._undo = contextlib.AsyncExitStack()
        self._killed = False
        self._leave = False

    async def start(self, api_port: int = 0) -> None:
        """Start everything; instances go on loading after this returns.

        Args:
            api_port: Where the control API listens, so that no instance gets that port.

        Raises:
            TeiManagerError: Something could not be started; `stop` must be called all the same.
        """
        if tls := Tls.of(self.settings.grpc):
            Certificates(tls, "h2")  # a sentence here instead of workers that cannot start
        run_dir = self.settings.state.path.parent / "run"
        store = Store(self.settings.state.path)
        self._undo.push_async_callback(store.close)
        takeover = await self._take_over(run_dir)
        self._undo.callback(self._close_listeners, takeover)
        self.address: tuple[str, int] = takeover.listener.getsockname()[:2]
        self.workers = Workers(
            self.settings.grpc.workers,
            self._options,
            takeover,
            run_dir,
            self.settings.instances.log_dir,
            self._worker_command,
        )
        self.registry = Registry(
            self.settings, store, self.workers, (api_port, self.address[1]), self._backoff
        )
        self._undo.push_async_callback(self._stop_instances)
        self._undo.push_async_callback(self._stop_workers)
        self.models = Models(self.registry, self.settings.state.path.parent / "models.json")
        self._undo.push_async_callback(self.models.close)
        self._scraper = Scraper()
        self._undo.push_async_callback(self._scraper.close)
        await self.workers.start()
        await self.registry.restore()
        await self.workers.replace_outdated(self._grace)

    async def _take_over(self, run_dir: Path) -> Takeover:
        rules, log_dir = self.settings.grpc, self.settings.instances.log_dir
        address = rules.host, rules.multiplexer_port
        unix = UnixAddress.of(rules.uds_path, rules.uds_mode)
        return await take_over(*address, self._options, rules.workers, run_dir, log_dir, unix)

    @property
    def _options(self) -> dict[str, Any]:
        limits = self.settings.grpc.model_dump(include=set(_WORKER_OPTIONS))
        if tls := Tls.of(self.settings.grpc):
            limits["tls"] = tls.to_json()
        if file := self.settings.grpc.token_file:
            limits["token_file"] = str(file.absolute())
        return limits

    @property
    def _grace(self) -> float:
        """Seconds that a worker gets for calls under way."""
        return self.settings.instances.stop_timeout_secs / 2

    async def reload(self, settings: Settings) -> None:
        """Take over settings that have changed, as far as a running manager can.

        Args:
            settings: As their sources have them now.
        """
        self.settings, kept = reloaded(self.settings, settings)
        outcome = await reload(self.registry, self.settings)
        log.info("Reloaded: %s", str(outcome) or "no instance differs")
        if kept:
            log.warning("Until the next start these keep their values: %s", ", ".join(kept))

    async def stop(self, leave: bool = False) -> None:
        """End everything, in order and within the times of the settings.

        Args:
            leave: Leave workers and instances running; the next manager goes on with them.

        Cancellation:
            Must not be cancelled; `kill` makes it quick.
        """
        self._leave = leave
        await self._undo.aclose()

    def _close_listeners(self, takeover: Takeover) -> None:
        """Close the sockets; the Unix socket's file stays where workers do."""
        left = self.workers.released if hasattr(self, "workers") else bool(takeover.found)
        for listener in takeover.listeners:
            if not left:
                remove(listener)
            listener.close()

    async def _stop_workers(self) -> None:
        grace = 0.0 if self._killed else self._grace
        await self.workers.stop(grace, self._leave and not self._killed)

    async def _stop_instances(self) -> None:
        grace = 0.0 if self._killed else self.settings.instances.stop_timeout_secs
        await self.registry.close(grace, self._leave and not self._killed)

    def kill(self) -> None:
        """End every process at once; a `stop` under way, or called next, is quick then."""
        self._killed = True
        if hasattr(self, "registry"):
            self.workers.kill()
            self.registry.kill()

    async def metrics(self, more: Iterable[Metric] = ()) -> bytes:
        """Return all metrics in Prometheus' text format, those of running instances included.

        Only what changes is read in the loop; families and text are made in a thread, as 200 busy
        instances have ten thousand samples.

        Args:
            more: That the manager does not know of.
        """
        federated = await self._scraper.page(targets(self.registry.statuses()))
        figures, reports = self.registry.figures(), self.workers.reports()
        names = {row.name for row in figures}
        self._scraper.retain(names)
        serving, replaced = self.workers.serving, dict(self.workers.replaced)
        own = manager_families(figures, serving, replaced, dict(self._scraper.failures))
        given = tuple(more)

        def page() -> bytes:
            counted = worker_families(reduce(add, reports), names)
            return render(chain(counted, own, given))

        return await asyncio.to_thread(page) + federated


_WORKER_OPTIONS = (
    "max_parallel_streams",
    "request_timeout_secs",
    "max_message_mb",
    "memory_limit_mb",
    "passthrough",
)
