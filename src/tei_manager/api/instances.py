"""``/instances``: create, watch, start, stop, restart and delete them; their logs and history."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from tei_manager.api.parameters import COMMON, Wait
from tei_manager.api.paths import check_paths
from tei_manager.api.problems import responses
from tei_manager.api.schemas import CREATE_EXAMPLES, HistoryView, InstanceView, LogsView
from tei_manager.errors import InstanceNotFound, ValidationFailed
from tei_manager.manager.instance import Status
from tei_manager.manager.lifecycle import Event
from tei_manager.manager.registry import Registry
from tei_manager.manager.supervisor import Supervisor
from tei_manager.settings import InstanceSpec

router = APIRouter(prefix="/instances", tags=["instances"], dependencies=COMMON)

# How soon a new line of a followed log is seen.
_FOLLOW_PAUSE = 0.2


Name = Annotated[str, Path(description="Of the instance.", examples=["bge-small"])]


async def _registry(request: Request) -> Registry:
    registry: Registry = request.app.state.manager.registry
    return registry


async def _supervisor(request: Request, name: Name) -> Supervisor:
    return (await _registry(request)).get(name)


Instances = Annotated[Registry, Depends(_registry)]
Instance = Annotated[Supervisor, Depends(_supervisor)]


@router.get("", responses=responses())
async def list_instances(instances: Instances) -> list[InstanceView]:
    """All instances, in order of creation."""
    return [InstanceView.of(status) for status in instances.statuses()]


@router.post(
    "",
    status_code=201,
    responses=responses(409)
    | {201: {"headers": {"Location": {"description": "Its path.", "schema": {"type": "string"}}}}},
)
async def create_instance(
    instances: Instances,
    spec: Annotated[InstanceSpec, Body(openapi_examples=CREATE_EXAMPLES)],
    response: Response,
    wait: Wait = 0,
) -> InstanceView:
    """Create an instance and start it, unless ``autostart`` is false."""
    check_paths(spec, instances.settings.instances)
    created = await instances.create(spec)
    response.headers["location"] = f"/instances/{spec.name}"
    return await _settled(created, wait)


@router.get("/{name}", responses=responses(404))
async def show_instance(instance: Instance, wait: Wait = 0) -> InstanceView:
    """One instance; with ``wait`` once it has settled, so that nobody needs to poll."""
    return await _settled(instance, wait)


@router.delete("/{name}", status_code=204, responses=responses(404, 409))
async def delete_instance(instances: Instances, name: Name) -> None:
    """End an instance and remove it; answers when its process is gone."""
    await instances.delete(name)


@router.post("/{name}/start", responses=responses(404, 409))
async def start_instance(instance: Instance, wait: Wait = 0) -> InstanceView:
    """Start an instance that is stopped or failed."""
    await instance.request(Event.START)
    return await _settled(instance, wait)


@router.post("/{name}/stop", responses=responses(404, 409))
async def stop_instance(instance: Instance, wait: Wait = 0) -> InstanceView:
    """Stop an instance; it stays stopped until somebody starts it."""
    status = await instance.request(Event.STOP)
    return await _settled(instance, wait) if wait else InstanceView.of(status)


@router.post("/{name}/restart", responses=responses(404, 409))
async def restart_instance(instance: Instance, wait: Wait = 0) -> InstanceView:
    """Stop an instance if it is up, and start it."""
    await instance.request(Event.RESTART)
    return await _settled(instance, wait)


async def _settled(supervisor: Supervisor, wait: float) -> InstanceView:
    status: Status = supervisor.status if wait == 0 else await supervisor.settled(wait)
    return InstanceView.of(status)


_TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {"example": "Ready\n"}}}}
_LINE = Query(ge=-(2**31), lt=2**31)


@router.get("/{name}/logs", responses=responses(404) | _TEXT, response_model=LogsView)
async def instance_logs(
    request: Request,
    instances: Instances,
    instance: Instance,
    start: Annotated[int | None, _LINE] = None,
    end: Annotated[int | None, _LINE] = None,
    follow: Annotated[
        bool, Query(description="Stream text: lines from start on, or from now on, for ever.")
    ] = False,
) -> LogsView | Response:
    """Lines of the instance's output, sliced like a Python list; ``follow`` streams them.

    At most the last MiB of a slice is given; ``start`` says where that begins.
    """
    if not follow:
        return LogsView.of(await asyncio.to_thread(instance.log.read, start, end))
    if end is not None:
        raise ValidationFailed("end: a followed log has none; leave out end or follow")
    if "tei_manager.head" in request.scope:
        return Response(media_type="text/plain")
    return StreamingResponse(_follow(instances, instance, start), media_type="text/plain")


async def _follow(
    instances: Registry, instance: Supervisor, start: int | None
) -> AsyncIterator[str]:
    """Yield lines until the client goes away or the instance does."""
    log = instance.log
    offset = log.size() if start is None else await asyncio.to_thread(log.offset_of, start)
    while _exists(instances, instance):
        text, offset = await asyncio.to_thread(log.read_from, offset)
        if text:
            yield text
        else:
            await asyncio.sleep(_FOLLOW_PAUSE)


def _exists(instances: Registry, instance: Supervisor) -> bool:
    try:
        return instances.get(instance.name) is instance
    except InstanceNotFound:
        return False


@router.get("/{name}/events", responses=responses(404))
async def instance_events(instances: Instances, instance: Instance) -> list[HistoryView]:
    """What happened to the instance, oldest first."""
    return [HistoryView.of(entry) for entry in await instances.backlog.history(instance.name)]
