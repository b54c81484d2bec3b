"""A manager that serves its API from a thread, for clients that block."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from control_plane import running

from tei_manager.api.server import _api
from tei_manager.tls import Certificates, Tls


@contextmanager
def serving(folder: Path, tls: Tls | None = None, **sections: Any) -> Iterator[str]:
    """Run a manager in a folder and give the address of its API."""
    certificates = Certificates(tls, "http/1.1") if tls else None
    listener = socket.create_server(("127.0.0.1", 0))
    ready: Future[asyncio.AbstractEventLoop] = Future()
    ended = asyncio.Event()

    async def serve() -> None:
        try:
            async with (
                running(folder, **sections) as rig,
                _api(rig.manager, listener, certificates),
            ):
                ready.set_result(asyncio.get_running_loop())
                await ended.wait()
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        loop = ready.result(60)
        try:
            scheme = "https" if tls else "http"
            yield f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            loop.call_soon_threadsafe(ended.set)
    finally:
        thread.join(60)
        listener.close()
