"""The application: routes, errors and guard put together in one place."""

from __future__ import annotations

from fastapi import FastAPI

from tei_manager import __version__
from tei_manager.api import instances, problems, system
from tei_manager.api.guard import Guard
from tei_manager.manager.manager import Manager


def create_app(manager: Manager) -> FastAPI:
    """Return the control API of a manager.

    Args:
        manager: Started, or started before the first request comes. It stays the caller's.
    """
    app = FastAPI(
        title="TEI Manager",
        version=__version__,
        description="Creates, watches, restarts and removes instances of text embeddings servers.",
    )
    app.state.manager = manager
    app.include_router(system.router)
    app.include_router(instances.router)
    problems.install(app)
    api = manager.settings.api
    # Outermost: nothing of the framework runs for a request that is refused here.
    app.add_middleware(Guard, hosts=(api.host, *api.allowed_hosts))
    return app
