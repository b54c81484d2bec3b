"""The route table: the one value that the control plane and the data plane share.

A table is a frozen snapshot of every instance that exists, running or not: the state of the
world, never a delta. The manager makes one for each change, gives it a higher version, and sends
it to the workers as one line of JSON. Pure: no I/O, no clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from enum import StrEnum
from operator import attrgetter


class RouteState(StrEnum):
    """The life of an instance as callers see it; only `RUNNING` takes calls."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Route:
    """Where calls for one instance go.

    Args:
        name: The instance's name, unique in a table.
        model: The model id that it serves; several routes may share one.
        host: Address that its gRPC server listens on, an IP address or a host name.
        port: TCP port of that server; 0 while there is none.
        state: Only a `RouteState.RUNNING` route takes calls.
        ordinal: Order of creation; routing by index counts running routes in this order.
        key: Names the process behind the address. Another process on the same port has another
            key, so that a connection to the old one is never used for the new one. Empty once it is
            to be ended: the calls that it still has fail then.
        api_key: Sent to the instance as ``authorization: Bearer …``; empty for none.
    """

    name: str
    model: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    state: RouteState = RouteState.RUNNING
    ordinal: int = 0
    key: str = ""
    api_key: str = field(default="", repr=False)

    @property
    def address(self) -> str:
        """``host:port``, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


_NAMES = tuple(each.name for each in fields(Route))
_values = attrgetter(*_NAMES)  # dataclasses.asdict takes ten times the steps


class RouteTable:
    """All routes at one moment, looked up by name, by index and by model.

    Immutable once made. Routes are kept in order of their ordinals.

    Args:
        version: Grows with each table that a manager publishes.
        routes: Any order; names must be unique.
        default_instance: Where native calls without a target go; empty for none.
    """

    __slots__ = ("by_name", "default_instance", "models", "routes", "running", "version")

    def __init__(
        self, version: int = 0, routes: Iterable[Route] = (), default_instance: str = ""
    ) -> None:
        self.version = version
        self.routes = tuple(sorted(routes, key=lambda route: route.ordinal))
        self.default_instance = default_instance
        self.by_name = {route.name: route for route in self.routes}
        self.running = tuple(r for r in self.routes if r.state is RouteState.RUNNING)
        self.models: dict[str, tuple[Route, ...]] = {}
        for route in self.routes:
            if route.model:
                self.models[route.model] = (*self.models.get(route.model, ()), route)
        if len(self.by_name) != len(self.routes):
            raise ValueError("two routes share a name")

    def __repr__(self) -> str:
        return f"<RouteTable v{self.version}: {len(self.routes)} routes, {len(self.running)} run>"

    def to_json(self) -> str:
        """Return the table as one line of JSON, as `from_json` reads it."""
        routes = [dict(zip(_NAMES, _values(route), strict=True)) for route in self.routes]
        document = {"version": self.version, "default": self.default_instance, "routes": routes}
        return json.dumps(document, separators=(",", ":"))

    @classmethod
    def from_json(cls, line: str | bytes) -> RouteTable:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The line is not such a document; nothing was changed.
        """
        try:
            document = json.loads(line)
            routes = [
                Route(**{**route, "state": RouteState(route["state"])})
                for route in document["routes"]
            ]
            return cls(int(document["version"]), routes, str(document["default"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a route table: {error}") from error
