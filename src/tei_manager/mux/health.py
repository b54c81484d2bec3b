"""``grpc.health.v1``: the multiplexer as a whole, each service, and each instance by its name.

The messages are a name and a number, so they are read and written here as bytes, and a worker that
only carries calls never loads the protobuf runtime.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from tei_manager.grpc.methods import MULTIPLEXER, NATIVE_SERVICES
from tei_manager.grpc.status import Code, StatusError
from tei_manager.routes import RouteState, RouteTable
from tei_manager.wire import fields

if TYPE_CHECKING:
    from tei_manager.mux.local import LocalCall

SERVICE_NAMES = (
    MULTIPLEXER,
    *NATIVE_SERVICES,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
)

MAX_LISTED = 100
"""Names in one answer of List, as its definition asks for a bound (gRFC A90)."""


class Serving(IntEnum):
    """``HealthCheckResponse.ServingStatus``."""

    SERVING = 1
    NOT_SERVING = 2
    SERVICE_UNKNOWN = 3


class Health:
    """What is serving now, and who wants to hear of a change."""

    def __init__(self) -> None:
        self._table = RouteTable()
        self._draining = False
        self._watchers: set[Watch] = set()

    def status(self, name: str) -> Serving:
        """Return the state of the whole (``""``), of a service, or of an instance."""
        if name == "" or name in SERVICE_NAMES:
            return Serving.NOT_SERVING if self._draining else Serving.SERVING
        route = self._table.by_name.get(name)
        if route is None:
            return Serving.SERVICE_UNKNOWN
        runs = route.state is RouteState.RUNNING and not self._draining
        return Serving.SERVING if runs else Serving.NOT_SERVING

    def names(self) -> list[str]:
        """Return every name that has a state."""
        return ["", *SERVICE_NAMES, *self._table.by_name]

    def apply(self, table: RouteTable) -> None:
        """Use a new route table, and tell those who watch what changed."""
        self._table = table
        self._tell()

    def drain(self) -> None:
        """Say that nothing serves any more, so that clients turn to someone else."""
        self._draining = True
        self._tell()

    def watch(self, watcher: Watch) -> None:
        """Tell ``watcher`` of changes from now on."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Watch) -> None:
        """Tell it no more."""
        self._watchers.discard(watcher)

    def _tell(self) -> None:
        for watcher in list(self._watchers):
            watcher.tell()


class Check:
    """One call of Check."""

    def __init__(self, call: LocalCall) -> None:
        self._call = call

    def on_message(self, message: bytes) -> None:
        """Answer at once."""
        status = self._call.switch.health.status(_service(message))
        if status is Serving.SERVICE_UNKNOWN:
            raise StatusError(Code.NOT_FOUND, "No service or instance has this name")
        self._call.send(_response(status))
        self._call.finish(Code.OK)

    def on_half_close(self) -> None:
        """End a call that asked nothing."""
        raise StatusError(Code.INVALID_ARGUMENT, "Check: no request message")

    def on_cancel(self) -> None:
        """Nothing is held."""


class Watch:
    """One call of Watch: the state now, and again whenever it is another one."""

    def __init__(self, call: LocalCall) -> None:
        self._call = call
        self._name: str | None = None
        self._told: Serving | None = None

    def on_message(self, message: bytes) -> None:
        """Begin to watch."""
        if self._name is not None:
            raise StatusError(Code.INTERNAL, "Watch takes one message, not more")
        self._name = _service(message)
        self._call.switch.health.watch(self)
        self.tell()

    def on_half_close(self) -> None:
        """Go on: the client has asked all that it wants."""
        if self._name is None:
            raise StatusError(Code.INVALID_ARGUMENT, "Watch: no request message")

    def on_cancel(self) -> None:
        """Watch no more."""
        self._call.switch.health.unwatch(self)

    def tell(self) -> None:
        """Send the state if it is not the one that was sent last."""
        status = self._call.switch.health.status(self._name or "")
        if status is not self._told:
            self._told = status
            self._call.send(_response(status))


class List:
    """One call of List."""

    def __init__(self, call: LocalCall) -> None:
        self._call = call

    def on_message(self, message: bytes) -> None:
        """Answer at once, unless there are more names than an answer may have."""
        health = self._call.switch.health
        names = health.names()
        if len(names) > MAX_LISTED:
            raise StatusError(Code.RESOURCE_EXHAUSTED, f"more than {MAX_LISTED} names; use Check")
        entries = (_entry(name, health.status(name)) for name in names)
        self._call.send(b"".join(entries))
        self._call.finish(Code.OK)

    def on_half_close(self) -> None:
        """End a call that asked nothing."""
        raise StatusError(Code.INVALID_ARGUMENT, "List: no request message")

    def on_cancel(self) -> None:
        """Nothing is held."""


def _service(message: bytes) -> str:
    """Return ``HealthCheckRequest.service``."""
    name = b""
    try:
        for number, _wire_type, value in fields.read_fields(message):
            if number == 1 and isinstance(value, bytes):
                name = value
        return name.decode()
    except (fields.MalformedMessage, UnicodeDecodeError) as error:
        raise StatusError(Code.INVALID_ARGUMENT, f"malformed request: {error}") from None


def _response(status: Serving) -> bytes:
    return bytes((0x08, status))


def _entry(name: str, status: Serving) -> bytes:
    """Return one entry of ``HealthListResponse.statuses``."""
    return _delimited(0x0A, _delimited(0x0A, name.encode()) + _delimited(0x12, _response(status)))


def _delimited(tag: int, value: bytes) -> bytes:
    head, size = bytearray((tag,)), len(value)
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + value
