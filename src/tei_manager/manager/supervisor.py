"""The owner of one instance: a single task that takes events and acts on `lifecycle`'s decisions.

Rules of this file
    1. Only the owner task changes phase, record or process; everybody else posts an event and
       may wait for the answer. So nothing interleaves, and a caller that goes away changes nothing.
    2. `watch.Watch`, the ending and the back-off are tasks that post events, each with the
       generation of the process that it is about; news about an earlier process is dropped.
    3. Written before announced: what was asked for and its history are in the store before the
       answer. What happens unasked is seen to even where it cannot be written (`backlog`).
    4. `status` is replaced, never changed; readers take it without asking.
    5. A phase that lasts is shown only after the workers know of it. A route is withdrawn from
       them before the process gets its first signal; where somebody asked for the end, calls under
       way have half of the stop time-out until then. What is left of them fails.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from tei_manager.errors import InstanceNotFound, StateFailed, TeiManagerError
from tei_manager.manager.gpus import get_counted
from tei_manager.manager.instance import Desired, Record, Status
from tei_manager.manager.launcher import launch, read_api_key
from tei_manager.manager.lifecycle import (
    ALIVE,
    ASKED,
    FAILURES,
    RESTING,
    Action,
    Crashes,
    Event,
    Phase,
    decide,
)
from tei_manager.manager.logfile import LogFile
from tei_manager.manager.probe import Answer, Probe
from tei_manager.manager.process import GroupProcess
from tei_manager.manager.strays import mark
from tei_manager.manager.watch import Rules, Watch
from tei_manager.manager.world import World
from tei_manager.routes import Route, RouteState
from tei_manager.settings import split_address

log = logging.getLogger(__name__)

_WANTED = {
    **dict.fromkeys((Event.START, Event.RESTART), Desired.RUNNING),
    **dict.fromkeys((Event.STOP, Event.DELETE), Desired.STOPPED),
}


@dataclass(frozen=True, slots=True)
class _News:
    event: Event
    detail: str = ""
    generation: int | None = None
    reply: asyncio.Future[Status] | None = None
    granted: bool = False


class Supervisor:
    """Owns one instance from creation to deletion.

    Args:
        record: As the store has it.
        world: The registry.

    Ownership:
        `start` makes the owner task; `close` ends it together with the process.
    """

    def __init__(self, record: Record, world: World) -> None:
        self.phase = Phase.STOPPED
        self.log = LogFile(world.settings.instances.log_dir / f"{record.spec.name}.log")
        self._say = logging.LoggerAdapter(log, {"instance": record.spec.name})
        self._world = world
        self._external = record.spec.backend == "external"
        host, port = "127.0.0.1", record.port
        if self._external:
            host, port = split_address(record.spec.address or "")
        self.status = Status(record, backend=record.spec.backend, host=host, port=port)
        self._api_key = ""
        self._routed = RouteState.STOPPED
        self._severed = False
        self._generation = 0
        self._crashes = Crashes(world.backoff)
        self._running_since = 0.0
        self._watch: Watch | None = None
        self._process: GroupProcess | None = None
        self._news: asyncio.Queue[_News] = asyncio.Queue()
        self._changed = asyncio.Event()
        self._helpers: dict[str, asyncio.Task[None]] = {}
        self._owner: asyncio.Task[None] | None = None
        self._forgotten = False
        self._failure: StateFailed | None = None

    def __repr__(self) -> str:
        return f"<Supervisor {self.name}: {self.phase.name}, {self._process}>"

    @property
    def name(self) -> str:
        """The instance's name."""
        return self.status.name

    @property
    def record(self) -> Record:
        """What the store keeps."""
        return self.status.record

    def route(self) -> Route:
        """Return the row of the route table, which knows first what `status` shows later."""
        record, status = self.record, self.status
        run = record.runtime  # the key of a process that is found again must stay as it was
        process = f"{run.pid}.{run.birth}" if run else str(self._generation)
        key = "" if self._severed else f"{record.ordinal}.{process}"
        return Route(record.spec.name, record.spec.model_id, status.host, status.port,
                     self._routed, record.ordinal, key, self._api_key)  # fmt: skip

    def start(self) -> None:
        """Begin to take events."""
        self._owner = asyncio.create_task(self._run(), name=f"instance {self.name}")

    async def request(self, event: Event, granted: bool = False) -> Status:
        """Ask for something and return the status right after it was granted.

        Args:
            event: What to do.
            granted: It was written down before: that its history cannot be is no reason to refuse.

        Raises:
            TeiManagerError: It cannot be granted, or not be written down; nothing has changed.

        Cancellation:
            Stops the waiting only; what was asked for happens.
        """
        if self.phase is Phase.DELETED:
            raise InstanceNotFound(self.name)
        reply: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self._news.put_nowait(_News(event, reply=reply, granted=granted))
        return await reply

    async def settled(self, limit: float) -> Status:
        """Wait until the instance is on its way nowhere, at most ``limit`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                await self._until(
                    lambda: self.phase in RESTING and self.status.state is self.phase.shown
                )
        return self.status

    async def deleted(self) -> None:
        """Wait for the end of a deletion that was granted.

        Raises:
            StateFailed: The process is gone, but the record could not be removed.
        """
        await self._until(lambda: self._forgotten or self._failure is not None)
        if self._failure is not None:
            raise self._failure

    async def close(self, grace: float, leave: bool = False) -> None:
        """End the owner task and the process, which may ``leave`` running for the next manager."""
        ending = self._helpers.pop("end", None)
        tasks = [task for task in (self._owner, *self._helpers.values()) if task is not None]
        for task in tasks:
            task.cancel()
        if self._watch is not None:
            await self._watch.close()
        await asyncio.gather(*tasks, *filter(None, [ending]), return_exceptions=True)
        # What is not written down could not be found again.
        if leave and self._process is not None and not self._world.backlog.has(self.record):
            self._process.release()
            self._process = None
        await self._end_process(grace)

    async def _end_process(self, grace: float) -> None:
        if self._process is not None:
            await self._process.end(grace)
            self._process = None

    def kill(self) -> None:
        """Kill the process at once; `close` still has to be awaited."""
        if self._process is not None:
            self._process.kill()

    async def _run(self) -> None:
        while self.phase is not Phase.DELETED:
            news = await self._news.get()
            if news.generation not in (None, self._generation):
                continue
            failure: Exception | None = None
            try:
                await self._handle(news)
            except Exception as error:
                failure = error
            self._answer(news, failure)
        while not self._news.empty():
            news = self._news.get_nowait()
            if refusal := decide(self.phase, news.event).refusal:
                self._answer(news, refusal(self.name))

    def _answer(self, news: _News, error: Exception | None) -> None:
        """Give whoever asked an answer; what nobody asked for goes into the log."""
        reply = news.reply if news.reply is not None and not news.reply.done() else None
        if error is not None and (reply is None or not isinstance(error, TeiManagerError)):
            self._say.error("Instance '%s': %s", self.name, news.event.value, exc_info=error)
        if reply is not None and error is not None:
            reply.set_exception(error)
        elif reply is not None:
            reply.set_result(self.status)

    async def _handle(self, news: _News) -> None:
        if news.event in (Event.EXITED, Event.HOPELESS) and self.phase in ALIVE:
            news = self._count_crash(news)
        decision = decide(self.phase, news.event)
        if decision.refusal is not None:
            raise decision.refusal(self.name)
        if (wanted := _WANTED.get(news.event)) is not None:
            await self._want(wanted)
            self._crashes.forgive()
            self._failure = None
        elif decision.phase is self.phase and not decision.actions:
            return
        await self._remember(news)
        self._enter(decision.phase, news.detail)
        for action in decision.actions:
            await self._act(action, news.event)
        if self.phase in RESTING and not self._forgotten:
            await self._world.announce()
        self._show(state=self.phase.shown)

    def _count_crash(self, news: _News) -> _News:
        """Return the news, as a crash loop if it was one crash too many."""
        up = time.monotonic() - self._running_since if self.phase is not Phase.STARTING else 0.0
        if self._crashes.happened(up) is Event.EXITED or self._external:
            return news
        detail = f"Gave up after {self._crashes.count} failures in a row. {news.detail}"
        return replace(news, event=Event.CRASH_LOOP, detail=detail)

    async def _want(self, desired: Desired) -> None:
        if self.record.desired is not desired:
            await self._world.backlog.update(wanted := replace(self.record, desired=desired))
            self._show(record=wanted)

    async def _remember(self, news: _News) -> None:
        level = logging.ERROR if news.event in FAILURES else logging.INFO
        what = f"{news.event.value} {news.detail}".rstrip()
        self._say.log(level, "Instance '%s': %s", self.name, what)
        asked = news.reply is not None and not news.granted
        remember = self._world.store.remember if asked else self._world.backlog.remember
        await remember(self.name, news.event.value, news.detail)

    def _enter(self, phase: Phase, detail: str) -> None:
        """Change the phase; the workers learn it at once, others when the workers know."""
        if phase is Phase.RUNNING:
            self._running_since = time.monotonic()
        # What failed keeps its reason while it is being ended.
        reason = self.status.reason if phase in (Phase.FAILED, Phase.BACKOFF) else ""
        self.phase, self._routed = phase, phase.shown
        state = self.status.state if phase in RESTING else phase.shown
        self._show(state=state, reason=detail or reason)
        self._world.publish()

    async def _act(self, action: Action, cause: Event) -> None:
        match action:
            case Action.LAUNCH:
                await self._launch(cause)
            case Action.END:
                if self._watch is not None:
                    self._watch.cancel()
                self._help("end", self._end(self.phase in ASKED))
            case Action.AWAIT_RETRY:
                delay = self._crashes.delay(random.random())  # noqa: S311 - jitter
                self._help("retry", self._retry(delay))
            case Action.CANCEL_RETRY:
                self._cancel("retry")
            case Action.FORGET:
                await self._forget()

    async def _launch(self, cause: Event) -> None:
        self._generation += 1
        self._severed = False
        self._show(pid=None, started_at=None, health_check_failures=0)
        try:
            if cause is not Event.START:
                await self._keep(replace(self.record, restarts=self.record.restarts + 1))
            self._api_key = read_api_key(self.record.spec.api_key_file)
            if self._external:
                self._show(host=await self._world.look_up(self.record.spec.address or ""))
            elif not self._adopt():
                await self._spawn()
        except socket.gaierror as error:  # as after a crash: it may be known in a while
            self._post(self._generation, Event.EXITED, f"Its name cannot be looked up ({error})")
        except (TeiManagerError, OSError) as error:
            await self._end_process(0)
            await self._handle(_News(Event.LAUNCH_FAILED, str(error)))
        else:
            self._begin_watch()

    async def _keep(self, record: Record) -> None:
        await self._world.backlog.keep(record)
        self._show(record=record)

    def _adopt(self) -> bool:
        """Go on with the process of an earlier manager, if it still runs."""
        runtime = self.record.runtime
        self._process = GroupProcess.adopt(runtime)
        if self._process is None or runtime is None:
            return False
        self._say.info("Instance '%s': goes on with process %d", self.name, runtime.pid)
        self._show(backend=runtime.kind, pid=runtime.pid, started_at=runtime.started_at)
        return True

    async def _spawn(self) -> None:
        program = self._world.program(self.record.spec)
        if program.note and self._generation == 1:
            self._say.warning("Instance '%s': %s", self.name, program.note)
            await self._world.backlog.remember(self.name, "fallback", program.note)
        known = await self._world.flags.of(program)
        await get_counted(self.record.spec.gpu_id)
        record = self._world.with_free_ports(self.record)
        ours = mark(self._world.store.path.parent)
        self._process = launch(program, record, known, self._api_key, self.log, ours)
        runtime = self._process.runtime(program.kind)
        await self._keep(replace(record, runtime=runtime))
        self._show(backend=program.kind, port=record.port, pid=runtime.pid,
                   started_at=runtime.started_at)  # fmt: skip

    def _begin_watch(self) -> None:
        rules = Rules.of(self.record.spec, self._world.settings)
        probe = Probe(self.status.host, self.status.port, self._api_key)
        post = partial(self._post, self._generation)
        self._watch = Watch(rules, probe, self.log, post, self._saw)
        self._watch.start(self._process)

    async def _forget(self) -> None:
        try:
            await self._world.backlog.delete(self.record)
        except StateFailed as error:
            self._enter(Phase.STOPPED, str(error))
            self._show(state=Phase.STOPPED.shown)
            self._failure = error
            return
        self.log.delete()
        await self._world.forget(self)
        self._forgotten = True

    def _post(self, generation: int, event: Event, detail: str) -> None:
        self._news.put_nowait(_News(event, detail, generation))

    async def _end(self, asked: bool) -> None:
        generation, begun = self._generation, time.monotonic()
        limit = self._world.settings.instances.stop_timeout_secs
        await self._world.announce()
        if asked:
            await self._world.finish_calls(self.route().key, limit / 2)
        self._severed = True
        await self._world.announce()
        await self._end_process(max(limit / 2, limit - (time.monotonic() - begun)))
        self._show(pid=None, started_at=None)
        self._post(generation, Event.GONE, "")

    async def _retry(self, delay: float) -> None:
        await asyncio.sleep(delay)
        self._post(self._generation, Event.RETRY, f"after a pause of {delay:.1f} s")

    def _saw(self, answer: Answer) -> int:
        failures = 0 if answer.good else self.status.health_check_failures + 1
        if answer.good:
            self._show(health_check_failures=0, last_health_check=datetime.now(UTC))
        else:
            self._show(health_check_failures=failures,
                       probe_failures=self.status.probe_failures + 1)  # fmt: skip
        return failures

    def _show(self, **changes: Any) -> None:
        self.status = replace(self.status, **changes)
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self._changed.wait()

    def _help(self, role: str, work: Coroutine[Any, Any, None]) -> None:
        self._helpers[role] = asyncio.create_task(work, name=f"{role} {self.name}")

    def _cancel(self, role: str) -> None:
        if role in self._helpers:
            self._helpers.pop(role).cancel()
