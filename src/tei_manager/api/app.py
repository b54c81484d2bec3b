"""The application: routes, errors and everything that stands in front of them, put together."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware

from tei_manager import __version__
from tei_manager.api import instances, models, problems, system
from tei_manager.api.audit import Audit
from tei_manager.api.bodies import Bodies
from tei_manager.api.guard import Guard
from tei_manager.api.parameters import TOKEN
from tei_manager.api.rate import Rate
from tei_manager.api.token import Authorization
from tei_manager.manager.manager import Manager
from tei_manager.settings.sections import ApiSettings
from tei_manager.tls import Certificates
from tei_manager.tokens import TokenFile

_DESCRIPTION = """\
Creates, watches, restarts and removes instances of text embeddings servers.

* Requests that take long answer at once, and the instance shows how far it is in `status` and
  `status_reason`. With `?wait=30` they answer once it has settled, at most 30 seconds later.
* Fields and parameters that are not described here are refused. A body needs
  `Content-Type: application/json`.
* Every error has one shape: `{"error": a sentence, "code": for programs, "timestamp": when}`.
* With `[api] token_file` set, requests need `Authorization: Bearer TOKEN`.
"""

_TAGS = [
    {"name": "instances", "description": "The servers that embed, rerank and classify."},
    {"name": "models", "description": "What they serve: in the cache, on the hub, in folders."},
    {"name": "system", "description": "How the whole is."},
]


def create_app(manager: Manager, certificates: Certificates | None = None) -> FastAPI:
    """Return the control API of a manager.

    Args:
        manager: Started, or started before the first request comes. It stays the caller's.
        certificates: Of the API's port, for the metrics.
    """
    app = FastAPIOffline(
        redoc_url=None,
        title="TEI Manager",
        version=__version__,
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
    )
    app.state.manager = manager
    app.state.certificates = certificates
    needed = [TOKEN] if manager.settings.api.token_file else []
    app.include_router(system.public)
    app.include_router(system.router, dependencies=needed)
    app.include_router(instances.router, dependencies=needed)
    app.include_router(models.router, dependencies=needed)
    problems.install(app)
    _protect(app, manager.settings.api)
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def _protect(app: FastAPI, api: ApiSettings) -> None:
    """Put the layers in front of the routes, the innermost first.

    A body is read before anything is refused: a client that is still sending when the connection
    ends may get to see a reset instead of the reason.
    """
    if api.token_file is not None:
        app.add_middleware(Authorization, file=TokenFile(api.token_file, "[api] token_file"))
    if api.requests_per_second:
        app.add_middleware(Rate, per_second=api.requests_per_second)
    if api.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=api.cors_origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("Authorization", "Content-Type"),
        )
    app.add_middleware(Guard, hosts=(api.host, *api.allowed_hosts), origins=api.cors_origins)
    app.add_middleware(Bodies)
    app.add_middleware(Audit)
