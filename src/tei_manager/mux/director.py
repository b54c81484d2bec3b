"""Which instance a call goes to: every routing rule, and nothing else (contracts.md 3.1, 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from tei_manager.grpc.status import Code, StatusError
from tei_manager.routes import Route, RouteState, RouteTable
from tei_manager.wire.fields import MalformedMessage
from tei_manager.wire.target import Target, TargetKind, read_target

MAX_MEMO = 4096
"""Targets remembered; a worker has far fewer instances, so more can only be a caller's game."""

MAX_SHOWN = 128
"""Characters of a caller's own string that go into a status message."""


class Director:
    """Resolves targets against the newest route table.

    Args:
        load: Calls in flight at a route's instance; the least loaded one serves a model.
    """

    def __init__(self, load: Callable[[Route], int]) -> None:
        self._load = load
        self.table = RouteTable()
        self._memo: dict[bytes, Route] = {}
        self._turn = 0

    def apply(self, table: RouteTable) -> None:
        """Use ``table`` from the next call on; calls under way are not disturbed."""
        self.table = table
        self._memo = {}

    def resolve(self, target: bytes | None) -> Route:
        """Return the route that an encoded ``Target`` names.

        Raises:
            StatusError: It names none, or one that takes no calls; the call is over with that.
        """
        if target is not None:
            route = self._memo.get(target)
            if route is not None:
                return route
        kind, value = _parse(target)
        if kind is TargetKind.NAME:
            route = self.by_name(_given(str(value), "target.instance_name"))
        elif kind is TargetKind.INDEX:
            route = self.by_index(int(value))
        else:
            return self.by_model(_given(str(value), "target.model"))
        if len(self._memo) >= MAX_MEMO:
            self._memo.clear()
        if target is not None:
            self._memo[target] = route
        return route

    def follows(self, target: bytes, route: Route) -> bool:
        """Say whether a later message's target means the instance that its stream already has.

        Raises:
            StatusError: It is malformed.
        """
        kind, value = _read(target) or Target(TargetKind.UNKNOWN)
        if kind is TargetKind.NAME:
            return value == route.name
        if kind is TargetKind.MODEL:
            return value == route.model != ""
        running = self.table.running
        if kind is TargetKind.INDEX and int(value) < len(running):
            return running[int(value)].name == route.name
        return False

    def native(self, targets: dict[bytes, bytes]) -> Route:
        """Return the route of a call that has its target in the metadata, or nowhere.

        Args:
            targets: The ``x-tei-*`` fields of the call.

        Raises:
            StatusError: They name no instance that takes calls, or do not say which of several.
        """
        if (name := targets.get(b"x-tei-instance")) is not None:
            return self.by_name(_given(name.decode("utf-8", "replace"), "x-tei-instance"))
        if (model := targets.get(b"x-tei-model")) is not None:
            return self.by_model(_given(model.decode("utf-8", "replace"), "x-tei-model"))
        if (index := targets.get(b"x-tei-index")) is not None:
            return self.by_index(_index(index))
        if self.table.default_instance:
            return self.by_name(self.table.default_instance)
        if len(self.table.routes) == 1:
            return self.by_name(self.table.routes[0].name)
        message = (
            "The call does not say which instance: set x-tei-instance, x-tei-model or x-tei-index "
            "in its metadata, or [grpc] default_instance in the settings"
        )
        raise StatusError(Code.INVALID_ARGUMENT, message)

    def by_name(self, name: str) -> Route:
        """Return the running instance of this name, or raise `StatusError`."""
        route = self.table.by_name.get(name)
        if route is None:
            raise StatusError(Code.NOT_FOUND, f"Instance '{name[:MAX_SHOWN]}' not found")
        if route.state is not RouteState.RUNNING:
            message = f"Instance '{name}' is not running (status: {route.state.value})"
            raise StatusError(Code.UNAVAILABLE, message)
        return route

    def by_index(self, index: int) -> Route:
        """Return the ``index``-th running instance in order of creation, or raise `StatusError`."""
        running = self.table.running
        if index >= len(running):
            message = f"No running instance has index {index}; {len(running)} run"
            raise StatusError(Code.NOT_FOUND, message)
        return running[index]

    def by_model(self, model: str) -> Route:
        """Return the least loaded running instance of a model, or raise `StatusError`."""
        shown = model[:MAX_SHOWN]
        routes = self.table.models.get(model)
        if routes is None:
            message = f"No instance serves model '{shown}'; {len(self.table.running)} run"
            raise StatusError(Code.NOT_FOUND, message)
        running = [route for route in routes if route.state is RouteState.RUNNING]
        if not running:
            raise StatusError(Code.UNAVAILABLE, f"No instance of model '{shown}' is running")
        self._turn += 1
        turn = self._turn % len(running)
        return min(running[turn:] + running[:turn], key=self._load)


def _given(value: str, what: str) -> str:
    if not value:
        raise StatusError(Code.INVALID_ARGUMENT, f"{what} is empty")
    return value


def _index(value: bytes) -> int:
    if not value.isdigit() or len(value) > 10:
        raise StatusError(Code.INVALID_ARGUMENT, "x-tei-index is not a number")
    return int(value)


def _parse(target: bytes | None) -> Target:
    if target is None:
        raise StatusError(Code.INVALID_ARGUMENT, "The request has no target")
    member = _read(target)
    if member is None:
        message = "The target names no instance: set instance_name, index or model"
        raise StatusError(Code.INVALID_ARGUMENT, message)
    if member.kind is TargetKind.UNKNOWN:
        raise StatusError(Code.UNIMPLEMENTED, "This routing strategy is not supported")
    return member


def _read(target: bytes) -> Target | None:
    try:
        return read_target(target)
    except MalformedMessage as error:
        raise StatusError(Code.INVALID_ARGUMENT, f"The target is malformed: {error}") from None
