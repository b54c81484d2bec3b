"""Reads the own metrics of running instances, each from its Prometheus port, for ``/metrics``.

All are asked at the same time and within one limit, so that one which hangs costs the others
nothing; what it would have said is missing, and counted. What was read is shown for up to a second,
so that several readers cost the instances one question.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import httpx

from tei_manager.manager.instance import Status
from tei_manager.routes import RouteState
from tei_manager.telemetry.federation import Federation

log = logging.getLogger(__name__)

LIMIT = 1.0
"""Seconds for all instances together; Prometheus gives the whole page ten by default."""

LARGEST = 4 * 1024 * 1024
"""Octets of one instance's page; those of TEI have about 60,000."""

FRESH = 1.0
"""Seconds for which what was read is shown; no longer than our own counters lag."""


@dataclass(frozen=True, slots=True)
class Target:
    """An instance to be asked: the labels of its series, and where its metrics are."""

    instance: str
    model: str
    host: str
    port: int


def targets(statuses: Iterable[Status]) -> tuple[Target, ...]:
    """Return the instances that run and have metrics of their own."""
    return tuple(
        Target(it.name, it.record.spec.model_id, it.host, it.record.prometheus_port)
        for it in statuses
        if it.state is RouteState.RUNNING and it.record.prometheus_port
    )


class Scraper:
    """Asks instances for their metrics.

    Args:
        limit: Seconds for all of them together.

    Attributes:
        failures: How often an instance could not be read, by instance.

    Ownership:
        `close` ends its client.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self.failures: Counter[str] = Counter()
        self._limit = limit
        self._client = httpx.AsyncClient(
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),  # unused: nothing here speaks TLS
            headers={"accept": "text/plain;version=0.0.4", "accept-encoding": "identity"},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=0),
            timeout=None,  # noqa: S113 - `_read` has the limit
        )
        self._lock = asyncio.Lock()
        self._silent: set[str] = set()
        self._targets: Sequence[Target] = ()
        self._page, self._read_at = b"", 0.0

    def __repr__(self) -> str:
        return f"<Scraper: {len(self._targets)} targets, {self.failures.total()} failures>"

    async def close(self) -> None:
        """End the client; nothing may be asked for then."""
        await self._client.aclose()

    async def page(self, targets: Sequence[Target]) -> bytes:
        """Return what the targets say, in Prometheus' text format.

        Args:
            targets: If they are not those of the last time, what was read then is not shown.
        """
        async with self._lock:
            if targets != self._targets or time.monotonic() - self._read_at > FRESH:
                self._page = await self._scrape(targets)
                self._targets, self._read_at = targets, time.monotonic()
            return self._page

    def retain(self, instances: Container[str]) -> None:
        """Forget the failures of every instance that is not among ``instances`` any more."""
        for name in [name for name in self.failures if name not in instances]:
            del self.failures[name]

    async def _scrape(self, targets: Sequence[Target]) -> bytes:
        async with asyncio.TaskGroup() as group:
            reads = []
            for target in targets:
                reads.append(group.create_task(self._read(target)))
                await asyncio.sleep(0)  # a request takes a millisecond, and others wait
        answers = [read.result() for read in reads]
        page, troubles = await asyncio.to_thread(
            _federate, list(zip(targets, answers, strict=True))
        )
        for target, trouble in troubles.items():
            self._failed(target.instance, trouble)
        self._silent = {target.instance for target in troubles}
        return page

    async def _read(self, target: Target) -> bytes | Exception:
        """Return the body of a target's page, or why there is none."""
        url = httpx.URL(scheme="http", host=target.host, port=target.port, path="/metrics")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limit), self._client.stream("GET", url) as answer:
                if answer.status_code != httpx.codes.OK:
                    return ValueError(f"it answers with status {answer.status_code}")
                async for chunk in answer.aiter_raw():
                    body += chunk
                    if len(body) > LARGEST:
                        return ValueError(f"its page has more than {LARGEST} octets")
        except TimeoutError:
            return TimeoutError(f"no answer within {self._limit:g} s")
        except httpx.HTTPError as error:
            return error
        return bytes(body)

    def _failed(self, instance: str, trouble: Exception) -> None:
        """Count a failure; the first of several in a row is in the log, too."""
        self.failures[instance] += 1
        if instance not in self._silent:
            reason = str(trouble) or type(trouble).__name__
            log.warning(
                "Instance '%s': its own metrics cannot be read (%s); /metrics goes without them",
                instance, reason, extra={"instance": instance},
            )  # fmt: skip


def _federate(
    answers: Iterable[tuple[Target, bytes | Exception]],
) -> tuple[bytes, dict[Target, Exception]]:
    """Return one page of all answers, and why some are not on it. Takes a while: not for a loop."""
    federation, troubles = Federation(), dict[Target, Exception]()
    for target, answer in answers:
        if isinstance(answer, Exception):
            troubles[target] = answer
            continue
        try:
            federation.add(target.instance, target.model, answer.decode())
        except ValueError as error:
            troubles[target] = error
    return federation.page(), troubles
