"""Connections to instances: opened at the first call, shared by all, drained when a route goes.

Theory
    A `Backend` is one process behind one address, as its route's key says. It has no connection
    until a call needs one; further ones are opened only while all are at the limit of streams
    that the instance itself announced, or have more than half of their window held by calls that
    it is slow to take: a new call goes to one of which that is not so. Calls that find no free
    stream wait, within their deadline and up to `MAX_WAITING`.

    A connection takes calls once the instance's SETTINGS are there: before that its limits are
    not known, and a program that does not speak HTTP/2 has not shown itself yet. How connections
    are made, and when calls do not wait for one, is in `connector`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from tei_manager.grpc.methods import Method
from tei_manager.grpc.status import Code
from tei_manager.mux.connector import Connector
from tei_manager.mux.exchange import Exchange
from tei_manager.mux.upstream import Upstream
from tei_manager.routes import Route, RouteTable
from tei_manager.wire import hpack
from tei_manager.wire.headers import CONTENT_TYPE, PUSHBACK

if TYPE_CHECKING:
    from tei_manager.mux.switch import Switch

logger = logging.getLogger(__name__)

MAX_CONNECTIONS = 8
"""Connections to one instance. gRPC servers that set a limit allow 100 or more streams on each."""

MAX_WAITING = 1024
"""Calls that may wait for a stream to one instance; the next is refused at once."""

SET_ASIDE = 1 << 32
"""Load of an instance that is set aside: a model is served by another one as long as there is."""

_RETIRED = "it was stopped or replaced"


class Backend:
    """One process behind one address, with its connections and the calls that wait for one."""

    def __init__(self, switch: Switch, route: Route) -> None:
        self.switch = switch
        self.route = route
        self.in_flight = 0
        self.retired = False
        self._endpoints: list[Upstream] = []
        self._waiting: dict[Exchange, None] = {}
        self._connector = Connector(self)
        self._blocks: dict[Method, bytes] = {}

    def __repr__(self) -> str:
        waits = f"{len(self._waiting)} wait"
        return f"<Backend {self.route.name!r}: {len(self._endpoints)} connections, {waits}>"

    @property
    def waiting(self) -> int:
        """Calls that wait for a stream."""
        return len(self._waiting)

    @property
    def load(self) -> int:
        """Calls in flight. To look at what is set aside is to ask whether it is back."""
        if self._connector.failure is None:
            return self.in_flight
        self._connector.ask()
        return SET_ASIDE

    @property
    def now(self) -> float:
        """Seconds on the monotonic clock, as of the last thing received."""
        return self.switch.now

    def block(self, method: Method) -> bytes:
        """Return the request header block of a method, ready encoded; metadata goes behind it."""
        block = self._blocks.get(method)
        if block is None:
            opening = self.opening(method.backend_path.encode())
            block = self._blocks[method] = opening + _PLAIN_MESSAGES
        return block

    def opening(self, path: bytes) -> bytes:
        """Return how the header block of a request for any path begins.

        How its messages are coded goes behind it, and then the metadata.
        """
        return _encode_opening(self.route, path)

    def submit(self, exchange: Exchange) -> None:
        """Give a call a stream, at once or when there is one; may fail it."""
        endpoint = self._choose()
        if endpoint is not None:
            endpoint.live += 1
            exchange.attach(endpoint)
            return
        if self.retired:
            exchange.fail(Code.UNAVAILABLE, self._cannot_connect(_RETIRED))
            return
        if self._connector.failure is not None:
            self._connector.ask()
            exchange.fail(Code.UNAVAILABLE, self._connector.failure)
            return
        if len(self._waiting) >= MAX_WAITING:
            message = f"too many calls wait for a stream to instance '{self.route.name}'"
            exchange.fail(Code.RESOURCE_EXHAUSTED, f"{message} ({MAX_WAITING})", PUSHBACK)
            return
        self._waiting[exchange] = None
        self._grow()

    def withdraw(self, exchange: Exchange) -> None:
        """Forget a call that waits; it was never sent."""
        self._waiting.pop(exchange, None)

    def gone(self) -> None:
        """Note that a call is gone, and its stream free."""
        if self._waiting:
            self._serve_waiting()
        elif self.retired and not self.in_flight:
            self.switch.backends.emptied(self)

    def ready(self, endpoint: Upstream) -> None:
        """Note that a connection's limits are known or changed."""
        if self.retired:
            endpoint.retire()
        elif endpoint.connection.going and endpoint in self._endpoints:
            self._endpoints.remove(endpoint)
        elif endpoint not in self._endpoints and not endpoint.connection.going:
            self._endpoints.append(endpoint)
            self._connector.failure = None
        self._serve_waiting()
        if self._waiting:
            self._grow()

    def relieve(self) -> None:
        """Make a connection for calls to come, if all that there are have their windows held."""
        if all(endpoint.crowded for endpoint in self._endpoints):
            self._grow()

    def remove(self, endpoint: Upstream) -> None:
        """Give no more calls to a connection that is lost."""
        if endpoint in self._endpoints:
            self._endpoints.remove(endpoint)

    def went(self, fruitful: bool) -> None:
        """Note that a connection takes no more calls, and whether it ever had an answer."""
        self._connector.went(fruitful)

    def lost(self, failure: str | None) -> None:
        """Note that a connection is lost and its calls are over.

        The last one takes with it the calls that wait: nothing is there to serve them.

        Args:
            failure: Tells callers how it broke; None if it ended in peace.
        """
        if failure is not None and not self._endpoints and not self.retired:
            self._connector.set_aside(failure)
            self._fail_waiting(failure)
        elif self._waiting:
            self._grow()

    def connected(self) -> None:
        """Make the next connection if calls still wait for one."""
        if self._waiting:
            self._grow()

    def unreachable(self, cause: str) -> None:
        """Fail the calls that wait: no connection could be made."""
        failure = self._cannot_connect(cause)
        if not self._endpoints:
            self._connector.failure = failure
        self._fail_waiting(failure)

    def retire(self) -> None:
        """Take no more calls; close each connection when its last call is over."""
        self.retired = True
        for endpoint in list(self._endpoints):
            endpoint.retire()
        self._connector.close()
        self._fail_waiting(self._cannot_connect(_RETIRED))

    def end_calls(self) -> None:
        """Fail the calls that are left, as the process is about to be ended."""
        message = f"instance '{self.route.name}' was stopped before it had answered"
        for endpoint in list(self.switch.endpoints):
            if isinstance(endpoint, Upstream) and endpoint.backend is self:
                endpoint.end_calls(message)

    def close(self) -> None:
        """Stop connecting. Connections are cut by whoever closes the switch."""
        self._connector.close()

    def _choose(self) -> Upstream | None:
        """Return a connection with a free stream: the first that is not crowded, if there is."""
        crowded = None
        for endpoint in self._endpoints:
            if endpoint.has_room:
                if not endpoint.crowded:
                    return endpoint
                crowded = crowded or endpoint
        return crowded

    def _serve_waiting(self) -> None:
        waiting = self._waiting
        for endpoint in list(self._endpoints):
            while waiting and endpoint.has_room:
                endpoint.live += 1
                exchange = next(iter(waiting))
                del waiting[exchange]
                exchange.attach(endpoint)

    def _grow(self) -> None:
        if not self.retired and len(self._endpoints) < MAX_CONNECTIONS:
            self._connector.start()

    def _fail_waiting(self, message: str) -> None:
        waiting, self._waiting = self._waiting, {}
        for exchange in waiting:
            exchange.fail(Code.UNAVAILABLE, message)

    def _cannot_connect(self, cause: str) -> str:
        name, address = self.route.name, self.route.address
        return f"cannot connect to instance '{name}' at {address}: {cause}"


_PLAIN_MESSAGES = hpack.literal(b"grpc-accept-encoding", b"identity") + CONTENT_TYPE


def _encode_opening(route: Route, path: bytes) -> bytes:
    fields = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", route.address.encode()),
        (b"te", b"trailers"),
    ]
    block = b"".join(hpack.literal(name, value) for name, value in fields)
    if route.api_key:
        bearer = f"Bearer {route.api_key}".encode()
        block += hpack.literal(b"authorization", bearer, never_indexed=True)
    return block


class Backends:
    """All instances that the route table knows as running, by name; and those that it did.

    Attributes:
        on_emptied: Called when the last call of one that was retired is gone.
    """

    def __init__(self, switch: Switch) -> None:
        self.on_emptied: Callable[[], None] = lambda: None
        self._switch = switch
        self._by_name: dict[str, Backend] = {}
        self._retired: set[Backend] = set()  # those with calls

    def __getitem__(self, name: str) -> Backend:
        """Return the backend of a running route."""
        return self._by_name[name]

    def load(self, route: Route) -> int:
        """Return how many calls are in flight at a route's instance; more than any if set aside."""
        backend = self._by_name.get(route.name)
        return backend.load if backend is not None else 0

    def waiting(self) -> int:
        """Return how many calls wait for a stream."""
        return sum(backend.waiting for backend in self._by_name.values())

    def in_flight(self) -> dict[str, int]:
        """Return how many calls each instance has, those of its earlier processes included."""
        calls: Counter[str] = Counter()
        for backend in (*self._by_name.values(), *self._retired):
            calls[backend.route.name] += backend.in_flight
        return dict(calls)

    def apply(self, table: RouteTable) -> None:
        """Keep what is unchanged, retire what is gone or is another process now.

        Calls under way go on, until a table says that no process is left behind their name.
        """
        old, self._by_name = self._by_name, {}
        for route in table.running:
            backend = old.get(route.name)
            if backend is None or not _same_process(backend.route, route):
                backend = Backend(self._switch, route)
            self._by_name[route.name] = backend
        for name, backend in old.items():
            if self._by_name.get(name) is not backend:
                backend.retire()
                if backend.in_flight:
                    self._retired.add(backend)
        for backend in list(self._retired):
            present = table.by_name.get(backend.route.name)
            if present is not None and backend.route.key and not present.key:
                backend.end_calls()

    def under_way(self) -> dict[str, int]:
        """Return how many calls each process still has that gets no more, by its route's key."""
        calls: Counter[str] = Counter()
        for backend in self._retired:
            calls[backend.route.key] += backend.in_flight
        return dict(calls)

    def emptied(self, backend: Backend) -> None:
        """Note that the last call of one that was retired is gone."""
        if backend in self._retired:
            self._retired.discard(backend)
            self.on_emptied()

    def close(self) -> None:
        """Stop connecting."""
        for backend in self._by_name.values():
            backend.close()


def _same_process(one: Route, other: Route) -> bool:
    return (one.address, one.key, one.api_key) == (other.address, other.key, other.api_key)
