"""The process behind ``tei-manager serve``: manager and control API, from start to the last signal.

The first SIGINT or SIGTERM stops everything in order: the API takes no more requests, workers
finish the calls under way, instances end at the same time. A second signal kills what is left.
With ``[instances] on_exit = "leave"`` SIGTERM leaves workers and instances running for the next
manager, so that it can be another version without a call lost or a model loaded again. SIGHUP reads
the settings anew; from a terminal that is gone it is the end, as for any program.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

from tei_manager.api.app import create_app
from tei_manager.api.connection import Connection
from tei_manager.errors import InvalidSettings, LaunchFailed
from tei_manager.manager.confinement import confine
from tei_manager.manager.manager import Manager
from tei_manager.settings import Settings, is_loopback
from tei_manager.tls import Certificates, CurrentContext, Tls
from tei_manager.tokens import TokenFile, Tokens

log = logging.getLogger(__name__)

# A request that waits (``?wait=``, a followed log) does not hold up the end longer than this.
_API_GRACE = 2


# Browsers: take an answer for what it says it is, and let no page put /docs into a frame.
_HEADERS = (("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "DENY"))


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: signals are `serve`'s.

    With TLS it listens by itself, as uvicorn bounds no hand-shake (asyncio: 60 s).
    """

    certificates: Certificates | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if self.certificates is None:
            await super().startup(sockets)
            return
        await super().startup([])
        for sock in sockets or ():
            server = await asyncio.get_running_loop().create_server(
                self._connection,
                sock=sock,
                ssl=CurrentContext.of(self.certificates),
                ssl_handshake_timeout=self.certificates.tls.handshake_secs,
            )
            self.servers.append(server)

    def _connection(self) -> Connection:
        connection = Connection(self.config, self.server_state, self.lifespan.state)
        connection.certificates = self.certificates
        return connection


class _Stopping(asyncio.Event):
    """Set by the first signal, which it remembers."""

    number: signal.Signals | None = None


async def serve(settings: Settings, reread: Callable[[], Settings] | None = None) -> None:
    """Run the control plane until a signal ends it; what `confine` takes is gone for good.

    Args:
        settings: To begin with.
        reread: Reads them anew at SIGHUP; without it that signal changes nothing.

    Raises:
        TeiManagerError: It could not be started; nothing is left running.
    """
    confine()
    certificates = _look_at_access(settings)
    manager = Manager(settings)
    stopping, asked = _Stopping(), asyncio.Event()
    with _signals(manager, stopping, asked), _listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        starting = asyncio.create_task(manager.start(port))
        try:
            await _first(starting, stopping)
            if not stopping.is_set():
                async with (
                    _api(manager, listener, certificates),
                    _reloads(manager, reread, asked),
                ):
                    log.info(
                        "Serving: control API on %s://%s:%d, gRPC on %s:%d",
                        "https" if certificates else "http", host, port, *manager.address,
                    )  # fmt: skip
                    await stopping.wait()
        finally:
            log.info("Stopping")
            by_sigterm = stopping.number is signal.SIGTERM
            leave = by_sigterm and manager.settings.instances.on_exit == "leave"
            await manager.stop(leave=leave)
            log.info("Stopped")


def _look_at_access(settings: Settings) -> Certificates | None:
    """Say aloud what is open to everyone, and return what the API needs for TLS.

    Raises:
        TeiManagerError: A file that guards a port cannot be used.
    """
    api, grpc = settings.api, settings.grpc
    tls = Tls.of(api)
    if api.token_file is not None:
        TokenFile(api.token_file, "[api] token_file").tokens()
    elif not is_loopback(api.host) and not (tls and tls.client_ca_file):
        log.warning("[api] allow_insecure: everyone who reaches %s controls this manager", api.host)
    if grpc.token_file is not None:
        Tokens(TokenFile(grpc.token_file, "[grpc] token_file"))
    elif not is_loopback(grpc.host) and grpc.tls_client_ca_file is None:
        log.warning("[grpc] host: everyone who reaches %s may call the models", grpc.host)
    return Certificates(tls, "http/1.1") if tls else None


async def _first(starting: asyncio.Task[None], stopping: _Stopping) -> None:
    """Wait for the start, or cancel it if a signal comes before its end."""
    signalled = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, signalled), return_when=asyncio.FIRST_COMPLETED)
    signalled.cancel()
    if not starting.done():
        starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await starting


@contextlib.contextmanager
def _signals(manager: Manager, stopping: _Stopping, asked: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    had_terminal = _has_terminal()

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGHUP and not (had_terminal and not _has_terminal()):
            asked.set()
            return
        if stopping.is_set() and number is not signal.SIGHUP:
            log.warning("Second signal: killing what is left")
            manager.kill()
        stopping.number = stopping.number or number
        stopping.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


@contextlib.asynccontextmanager
async def _reloads(
    manager: Manager, reread: Callable[[], Settings] | None, asked: asyncio.Event
) -> AsyncIterator[None]:
    """Reload the settings whenever it is asked for, one after the other, while the body runs."""

    async def watch() -> None:
        while await asked.wait():
            asked.clear()
            if reread is not None:
                await _reload(manager, reread)

    watching = asyncio.create_task(watch(), name="reloads")
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def _reload(manager: Manager, reread: Callable[[], Settings]) -> None:
    try:
        settings = await asyncio.to_thread(reread)
    except InvalidSettings as error:
        for mistake in error.mistakes:
            log.error("Not reloaded: %s", mistake)
        return
    try:
        await manager.reload(settings)
    except Exception:
        log.exception("The reload failed")
    logging.getLogger().setLevel(manager.settings.log.level.upper())


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.api.host.strip("[]"), settings.api.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        sentence = f"Cannot listen on {host}:{port} ({error.strerror})"
        raise LaunchFailed(f"{sentence}; stop what holds it or set [api] port") from error


@contextlib.asynccontextmanager
async def _api(
    manager: Manager, listener: socket.socket, certificates: Certificates | None = None
) -> AsyncIterator[None]:
    """Serve the control API while the body runs."""
    config = uvicorn.Config(
        create_app(manager, certificates),
        access_log=manager.settings.log.access,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=_API_GRACE,
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        http=Connection,
        ws="none",
        headers=[*_HEADERS],
    )
    server = _Server(config)
    server.certificates = certificates
    serving = asyncio.create_task(server.serve([listener]), name="control API")
    watching = asyncio.create_task(certificates.watch()) if certificates else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()
        server.should_exit = True
        await serving
