"""``/health`` and ``/metrics``: how the whole is."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response

from tei_manager import __version__
from tei_manager.api.parameters import COMMON
from tei_manager.api.problems import responses
from tei_manager.api.schemas import HealthView, InstanceCount
from tei_manager.manager.manager import Manager
from tei_manager.routes import RouteState
from tei_manager.telemetry.exposition import CONTENT_TYPE, certificate_families
from tei_manager.tls import Certificates

public = APIRouter(tags=["system"], dependencies=COMMON)
"""What everybody may ask, token or not."""

router = APIRouter(tags=["system"], dependencies=COMMON)
"""What needs the token, where there is one."""


_UNAVAILABLE = {"model": HealthView, "description": "No worker serves the multiplexer's port."}


@public.get("/health", responses={**responses(), 503: _UNAVAILABLE})
async def health(request: Request, response: Response) -> HealthView:
    """Whether a worker serves the multiplexer's port; 503 if none does."""
    manager: Manager = request.app.state.manager
    states = [status.state for status in manager.registry.statuses()]
    workers = manager.workers.serving
    if workers == 0:
        response.status_code = 503
    served: Literal["degraded", "healthy"] = "healthy"
    if manager.registry.backlog.waits:
        served = "degraded"
    return HealthView(
        status=served if workers else "unavailable",
        version=__version__,
        instances=InstanceCount(total=len(states), running=states.count(RouteState.RUNNING)),
        workers=workers,
    )


_EXAMPLE = 'tei_grpc_pool_requests_total{instance="bge-small",method="embed"} 42.0\n'


@router.get(
    "/metrics",
    response_class=Response,
    responses={**responses(), 200: {"content": {"text/plain": {"example": _EXAMPLE}}}},
)
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus' text format, those of the running instances included."""
    manager: Manager = request.app.state.manager
    certificates: Certificates | None = request.app.state.certificates
    own = (
        certificate_families("tei_manager_api", certificates.expires, certificates.reloads)
        if certificates
        else ()
    )
    return Response(await manager.metrics(own), media_type=CONTENT_TYPE)
