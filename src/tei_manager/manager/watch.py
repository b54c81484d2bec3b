"""Watches one process of an instance, from its launch to its end, and says what it saw.

It decides nothing: it posts events, and the supervisor's owner task decides. A process that dies
is noticed by waiting for it, at once; one that lives and does not answer, by probing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tei_manager.manager.lifecycle import Event, probe_verdict
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.probe import Answer, Probe
from tei_manager.manager.process import GroupProcess
from tei_manager.settings import InstanceSpec, Settings

# Between probes of an instance that is starting: quick for a stub, cheap for a model that loads.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 0.5

# Of a crash's output in ``status_reason``: a traceback's last frames or an "Error: …" chain.
_LAST_LINES = 8


@dataclass(frozen=True, slots=True)
class Rules:
    """How an instance is watched. Times in seconds.

    Args:
        model_id: What it has to serve.
        startup_timeout: Until it has to be ready; ``None`` for as long as it takes.
        interval: Between two probes once it was ready.
        failures_before_restart: Failed probes in a row that make it hopeless; 0 for never.
    """

    model_id: str
    startup_timeout: float | None
    interval: float
    failures_before_restart: int

    @classmethod
    def of(cls, spec: InstanceSpec, settings: Settings) -> Rules:
        """Return the rules for an instance.

        Nobody can restart an external one, so it has all the time that it was not denied.
        """
        external = spec.backend == "external"
        limit = None if external else settings.instances.startup_timeout_secs
        return cls(
            spec.model_id,
            spec.startup_timeout_secs or limit,
            settings.health.interval_secs,
            0 if external else settings.health.failures_before_restart,
        )


class Watch:
    """Two tasks for one process: one waits for its end, one probes it.

    Args:
        rules: How to watch.
        probe: Closed when the probing ends.
        log: Where the process writes; kept within its size.
        post: Takes an event and its detail.
        saw: Takes each answer of a probe, and returns how many have failed in a row.

    Ownership:
        `start` makes the tasks; `cancel` or `close` ends them. The process is the caller's.
    """

    def __init__(
        self,
        rules: Rules,
        probe: Probe,
        log: LogFile,
        post: Callable[[Event, str], None],
        saw: Callable[[Answer], int],
    ) -> None:
        self._rules, self._probe, self._log = rules, probe, log
        self._post, self._saw = post, saw
        self._log_begin = log.size()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, process: GroupProcess | None) -> None:
        """Begin to probe and, where there is a process, to wait for its end."""
        self._tasks = [asyncio.create_task(self._ask(), name="probe")]
        if process is not None:
            self._tasks.append(asyncio.create_task(self._wait(process), name="wait"))

    def cancel(self) -> None:
        """Post nothing from now on."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """Cancel, and return when the channel is closed."""
        self.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait(self, process: GroupProcess) -> None:
        how = await process.wait()
        self._post(Event.EXITED, f"Process {how}{self._last_words()}")

    def _last_words(self) -> str:
        """Return the last of what this process wrote, never what an earlier one did."""
        size = self._log.size()
        written = size - self._log_begin if size >= self._log_begin else size  # less: it was cut
        window = min(8192, written)
        lines = self._log.tail(_LAST_LINES, window)
        return ": " + "\n".join(lines) if lines else " without a word in its log"

    async def _ask(self) -> None:
        try:
            if await self._becomes_ready():
                await self._stays_alive()
        finally:
            await self._probe.close()

    async def _becomes_ready(self) -> bool:
        answer = Answer(False, "no answer")
        try:
            async with asyncio.timeout(self._rules.startup_timeout):
                pause = _FIRST_PAUSE
                while not (answer := await self._probe.ready(self._rules.model_id)).good:
                    if answer.hopeless:
                        break
                    self._log.keep_within()
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError:
            limit = f"{self._rules.startup_timeout:g} s"
            detail = f"Not ready within {limit} ({answer.detail}){self._last_words()}"
            answer = Answer(False, detail, hopeless=True)
        self._saw(answer)
        self._post(Event.READY if answer.good else Event.UNUSABLE, answer.detail)
        return answer.good

    async def _stays_alive(self) -> None:
        while True:
            await asyncio.sleep(self._rules.interval)
            self._log.keep_within()
            answer = await self._probe.alive(self._rules.model_id)
            failures = self._saw(answer)
            if answer.good:
                self._post(Event.READY, "")
            elif answer.other:  # at once: every call would get an answer of the wrong model
                self._post(Event.SICK, answer.detail)
            elif event := probe_verdict(failures, self._rules.failures_before_restart):
                self._post(event, f"{failures} probes in a row failed: {answer.detail}")
