"""A manager that serves its API from a thread, for the commands that ask one."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
import uvicorn
from control_plane import FAKE_WORKER, QUICK, settings

from tei_manager.api.app import create_app
from tei_manager.manager.manager import Manager


class _Server(uvicorn.Server):
    """Says when it serves, and on which port."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of the API of a manager that runs in a thread."""
    folder = tmp_path_factory.mktemp("m")
    manager = Manager(settings(folder), FAKE_WORKER, QUICK)
    config = uvicorn.Config(
        create_app(manager), log_config=None, lifespan="off", timeout_graceful_shutdown=2
    )
    server = _Server(config)
    listener = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        try:
            await manager.start()
            await server.serve([listener])
        finally:
            await manager.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert server.ready.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()
