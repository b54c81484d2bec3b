"""The models that this machine knows: in the cache, registered, being downloaded or tried.

A model exists if the cache has anything of it, or if somebody registered it; what was registered is
kept beside the state file. What was found in trials and what happened lives as long as the manager.
One job at a time is done for a model; at most `DOWNLOADS` downloads and one trial run at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tei_manager.errors import ModelBusy, ModelIncomplete, ModelNotFound, StateFailed
from tei_manager.manager import models_cache
from tei_manager.manager.instance import HistoryEntry
from tei_manager.manager.models_cache import Files
from tei_manager.manager.models_download import Cancelled, Hub, Progress, download
from tei_manager.manager.models_trial import try_model
from tei_manager.manager.registry import Registry

log = logging.getLogger(__name__)

DOWNLOADS = 2
"""Downloads at once; others wait, as the disk and the line are the instances', too."""

EVENTS_KEPT = 100
"""Of each model."""

Work = Callable[[str], Coroutine[Any, Any, None]]

REGISTERED_LIMIT = 1000
"""Ids that may be registered, so that no caller can fill the memory with them."""

# How long the end of the manager waits for a thread that the network holds up.
_STOP_SECONDS = 2.0


@dataclass
class Job:
    """What is being done with a model, or was done last.

    Args:
        status: ``downloading``, ``loading``, ``failed``, ``verified``, or empty for nothing.
        error: Why it failed.
        progress: Of the last download.
        verified_at: When a trial went well.
        events: What happened, oldest first.
        task: While it runs.
    """

    status: str = ""
    error: str = ""
    progress: Progress | None = None
    verified_at: datetime | None = None
    events: deque[HistoryEntry] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    task: asyncio.Task[None] | None = None

    def note(self, kind: str, detail: str = "") -> None:
        """Add to what happened."""
        self.events.append(HistoryEntry(datetime.now(UTC), kind, detail))


@dataclass(frozen=True, slots=True)
class Model:
    """A model as it is now: its id, its files, its job, and the instances that use it."""

    model_id: str
    files: Files
    job: Job
    instances: tuple[str, ...]

    @property
    def status(self) -> str:
        """As the API names it; files that are gone undo what was found with them."""
        busy = self.job.status in ("downloading", "loading")
        if busy or (self.job.status and (self.job.status == "failed" or not self.files.missing)):
            return self.job.status
        if not self.files.missing:
            return "downloaded"
        return "partial" if self.files.size_bytes else "available"


class Models:
    """All models.

    Args:
        registry: Says which instances use a model; gives ports and programs for trials.
        file: Where registered ids are kept.
        hub: Where models come from; that of the environment if absent.

    Raises:
        StateFailed: The file is damaged.

    Ownership:
        `close` ends all jobs; downloads leave partial files, which the next download goes on with.
    """

    def __init__(self, registry: Registry, file: Path, hub: Hub | None = None) -> None:
        floor = registry.settings.models.min_free_mb << 20
        self.hub = hub or Hub.of(os.environ, floor)
        self._registry, self._file = registry, file
        self._registered = _read(file)
        self._jobs: dict[str, Job] = {}
        self._downloads = asyncio.Semaphore(DOWNLOADS)
        self._trials = asyncio.Lock()
        self._writing = asyncio.Lock()

    async def all(self) -> list[Model]:
        """Return every model, in order of the ids."""
        cached = await asyncio.to_thread(models_cache.cached_ids, self.hub.cache)
        names = {*cached, *self._registered, *(n for n, job in self._jobs.items() if job.task)}
        return [await self._model(name) for name in sorted(names)]

    async def get(self, model_id: str) -> Model:
        """Return one model.

        Raises:
            ModelNotFound: Nothing is known of it.
        """
        model = await self._model(model_id)
        busy = model.job.task is not None
        if not (busy or model_id in self._registered or self._is_cached(model_id)):
            raise ModelNotFound(model_id)
        return model

    def _is_cached(self, model_id: str) -> bool:
        local = Path(model_id).is_absolute()
        return not local and models_cache.repository(self.hub.cache, model_id).is_dir()

    async def _model(self, model_id: str) -> Model:
        files = await asyncio.to_thread(models_cache.examine, self.hub.cache, model_id)
        return Model(model_id, files, self._jobs.get(model_id, Job()), self._users(model_id))

    def _users(self, model_id: str) -> tuple[str, ...]:
        statuses = self._registry.statuses()
        return tuple(s.record.spec.name for s in statuses if s.record.spec.model_id == model_id)

    async def add(self, model_id: str) -> bool:
        """Register a model; returns whether it was new.

        Raises:
            ModelBusy: There are `REGISTERED_LIMIT` already.
            StateFailed: It cannot be written down.
        """
        async with self._writing:
            if model_id in self._registered:
                return False
            if len(self._registered) >= REGISTERED_LIMIT:
                raise ModelBusy(f"{REGISTERED_LIMIT} models are registered; delete one first")
            await self._write({*self._registered, model_id})
        return not self._is_cached(model_id)

    async def _write(self, registered: set[str]) -> None:
        try:
            await asyncio.to_thread(_write, self._file, registered)
        except OSError as error:
            raise StateFailed(f"{self._file} cannot be written ({error}); mend that") from error
        self._registered = registered

    async def download(self, model_id: str) -> None:
        """Register a model and begin to download it, or to fetch what is missing of it.

        Raises:
            ModelBusy: Something is done with it already.
        """
        await self.add(model_id)
        self._begin(model_id, "downloading", self._download)

    async def _download(self, model_id: str) -> None:
        job = self._jobs[model_id]
        progress = job.progress = Progress()
        async with self._downloads:
            job.note("download started", self.hub.endpoint)
            await _in_thread(lambda: download(self.hub, model_id, progress))
        job.status = ""
        job.note("download finished", f"{progress.files} files, {progress.octets} bytes")

    async def verify(self, model_id: str) -> None:
        """Begin to try whether a server starts with a model.

        Raises:
            ModelNotFound: Nothing is known of it.
            ModelIncomplete: It is not whole on this machine.
            ModelBusy: Something is done with it already.
        """
        model = await self.get(model_id)
        if model.files.missing:
            raise ModelIncomplete(model_id, model.files.missing)
        self._begin(model_id, "loading", self._verify)

    async def _verify(self, model_id: str) -> None:
        job = self._jobs[model_id]
        async with self._trials:
            job.note("trial started")
            job.error = await try_model(self._registry, model_id)
        job.status = "failed" if job.error else "verified"
        job.verified_at = None if job.error else datetime.now(UTC)
        job.note("trial failed" if job.error else "trial passed", job.error)

    def _begin(self, model_id: str, status: str, work: Work) -> None:
        job = self._jobs.setdefault(model_id, Job())
        if job.task is not None:
            raise ModelBusy(f"Model '{model_id}' is {job.status}; wait until that has ended")
        job.status, job.error = status, ""
        job.task = asyncio.create_task(self._guarded(model_id, work), name=f"{status} {model_id}")

    async def _guarded(self, model_id: str, work: Work) -> None:
        """Do a job; however it ends, the model is free for the next one."""
        job = self._jobs[model_id]
        try:
            await work(model_id)
        except (Cancelled, asyncio.CancelledError):
            job.status = ""
            job.note("interrupted")
            raise
        except Exception as error:
            job.status, job.error = "failed", str(error)
            job.note("failed", job.error)
            log.warning("Model '%s': %s", model_id, error)
        finally:
            if job.progress is not None:
                job.progress.cancelled.set()
            job.task = None

    async def settled(self, model_id: str, limit: float) -> Model:
        """Return a model once nothing is done with it any more, or after ``limit`` seconds."""
        job = self._jobs.get(model_id)
        if job is not None and job.task is not None:
            await asyncio.wait({job.task}, timeout=limit)
        return await self.get(model_id)

    async def delete(self, model_id: str) -> None:
        """Forget a model and remove what the cache has of it; a local folder stays as it is.

        Raises:
            ModelNotFound: Nothing is known of it.
            ModelBusy: Instances use it, or it is being tried.
        """
        model = await self.get(model_id)
        if model.instances:
            names = ", ".join(model.instances)
            raise ModelBusy(f"Model '{model_id}' is used by {names}; delete those first")
        if model.job.task is not None:
            raise ModelBusy(f"Model '{model_id}' is {model.job.status}; wait until that has ended")
        job = self._jobs.setdefault(model_id, Job())
        job.task = asyncio.current_task()  # keeps others away meanwhile
        job.status = "loading"
        try:
            await asyncio.to_thread(self._remove, model_id)
            async with self._writing:
                await self._write(self._registered - {model_id})
        finally:
            del self._jobs[model_id]

    def _remove(self, model_id: str) -> None:
        if Path(model_id).is_absolute():
            return
        try:
            models_cache.remove(self.hub.cache, model_id)
        except OSError as error:
            raise StateFailed(f"'{model_id}' cannot be removed ({error}); mend that") from error

    async def close(self) -> None:
        """End all jobs; a server that is tried is killed."""
        tasks = [job.task for job in self._jobs.values() if job.task is not None]
        for job in self._jobs.values():
            if job.progress is not None:
                job.progress.cancelled.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _in_thread(work: Callable[[], None]) -> None:
    """Run blocking work in a thread that the end of the process does not wait for.

    Cancellation:
        Waits `_STOP_SECONDS` for the work, which must have been told to end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if not done.done():
            done.set_result(None) if error is None else done.set_exception(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            work()
        except BaseException as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, error)

    threading.Thread(target=run, daemon=True, name="download").start()
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait({done}, timeout=_STOP_SECONDS)
        done.cancel() or done.exception()
        raise


def _read(file: Path) -> set[str]:
    try:
        return {str(each) for each in json.loads(file.read_text("utf-8"))}
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError) as error:
        raise StateFailed(f"{file} cannot be read ({error}); mend or remove it") from error


def _write(file: Path, registered: set[str]) -> None:
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(json.dumps(sorted(registered), indent=1), "utf-8")
    fresh.replace(file)
