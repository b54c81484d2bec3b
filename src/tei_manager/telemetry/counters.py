"""What a worker counts, on the hot path: plain integers in dictionaries, no locks, no I/O.

A worker runs in one thread, so an increment needs no lock. Everything is cumulative since the
worker's start, but the gauges (`GAUGES`), which show the present. The manager adds the reports
of all workers up with `add`; a worker that died leaves its last report, less its gauges
(`settled`), in a base, so that no series ever falls.

Cost: `finished` and `routed` run once per call and are held under half a microsecond each
(tests/telemetry/test_counters.py measures it), hence no objects from a metrics library here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Container
from typing import Any, Protocol

# 50 µs is below the fastest call that a loopback hop allows (43 µs measured for a direct call,
# design.md section 2); 60 s is twice the default time-out. Between them three steps a decade.
BUCKETS: tuple[float, ...] = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
    0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 60.0,
)  # fmt: skip
"""Upper bounds of the duration histogram in seconds; one more bucket has all above."""

GAUGES = (
    *("connections_open", "in_flight", "instance_in_flight", "client_connections", "queued"),
    "tls_expires",
)
"""Keys of a report that show the present and die with their worker."""


class Certificate(Protocol):
    """What is counted of the certificate of a port."""

    expires: float
    reloads: dict[str, int]


class _Figures:
    """Calls of one method to one instance: how long they took, and how they ended."""

    __slots__ = ("buckets", "codes", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0
        self.codes: dict[int, int] = {}

    def add(self, other: _Figures) -> None:
        """Add the figures of other calls; safe while those are being counted."""
        self.buckets = list(map(int.__add__, self.buckets, other.buckets))
        self.seconds += other.seconds
        for code, count in list(other.codes.items()):
            self.codes[code] = self.codes.get(code, 0) + count


class Counters:
    """All counters of one worker; the attributes are plain integers for the worker to change.

    Attributes:
        in_flight: Calls that are open now.
        instance_in_flight: Calls that each instance has now.
        client_connections: Client connections that are open now.
        queued: Calls that wait for a stream to their instance now.
        bytes_in: Bytes received from clients.
        bytes_out: Bytes sent to clients.
        rejected: Calls or connections refused, by reason; reasons come from a fixed set.
        broken: Connections that we ended, by side (``client``, ``instance``) and reason.

    Args:
        certificate: That clients are shown, if there is TLS.
    """

    __slots__ = (
        "_certificate",
        "_figures",
        "_open",
        "_opened",
        "_routed",
        "broken",
        "bytes_in",
        "bytes_out",
        "client_connections",
        "in_flight",
        "instance_in_flight",
        "queued",
        "rejected",
    )

    def __init__(self, certificate: Certificate | None = None) -> None:
        self._certificate = certificate
        self.in_flight = self.client_connections = self.queued = 0
        self.bytes_in = self.bytes_out = 0
        self.rejected: dict[str, int] = {}
        self.broken: dict[str, dict[str, int]] = {"client": {}, "instance": {}}
        self._opened: dict[str, int] = {}
        self._open: dict[str, int] = {}
        self._routed: dict[str, dict[str, int]] = {}
        self._figures: dict[tuple[str, str], _Figures] = {}  # by method and instance
        self.instance_in_flight: dict[str, int] = {}

    def __repr__(self) -> str:
        calls = sum(sum(figures.buckets) for figures in self._figures.values())
        return f"<Counters: {calls} calls, {self.in_flight} in flight>"

    def opened(self, instance: str) -> None:
        """Count a connection to an instance that was made."""
        self._opened[instance] = self._opened.get(instance, 0) + 1
        self._open[instance] = self._open.get(instance, 0) + 1

    def closed(self, instance: str) -> None:
        """Count the end of a connection that `opened` has counted."""
        if self._open.get(instance, 0) > 0:
            self._open[instance] -= 1

    def routed(self, instance: str, label: str) -> None:
        """Count a call once its instance is known; never call it with a name that is not."""
        try:
            self._routed[instance][label] += 1
        except KeyError:
            self._routed.setdefault(instance, {})[label] = 1

    def finished(self, label: str, code: int, seconds: float, instance: str = "") -> None:
        """Count a call that is over, and in flight no more.

        Args:
            label: The method's `grpc.methods.Method.label`.
            code: The gRPC status that the client got.
            seconds: From the client's HEADERS to the last frame queued for it.
            instance: Where it was routed to; empty if it never was.
        """
        figures = self._figures.get((label, instance))
        if figures is None:
            figures = self._figures[label, instance] = _Figures()
        self.in_flight -= 1
        figures.buckets[bisect_left(BUCKETS, seconds)] += 1
        figures.seconds += seconds
        codes = figures.codes
        codes[code] = codes.get(code, 0) + 1

    def reject(self, reason: str) -> None:
        """Count what was refused or held back; ``reason`` is from a fixed set."""
        self.rejected[reason] = self.rejected.get(reason, 0) + 1

    def broke(self, side: str, reason: str) -> None:
        """Count a connection that we ended; ``reason`` is from a fixed set."""
        reasons = self.broken[side]
        reasons[reason] = reasons.get(reason, 0) + 1

    def retain(self, instances: Container[str]) -> None:
        """Drop the series of every instance that is not among ``instances`` any more.

        Those of methods keep what they counted.
        """
        for series in (self._opened, self._open, self._routed):
            for name in [name for name in series if name not in instances]:
                del series[name]
        for label, name in [key for key in self._figures if key[1]]:
            if name not in instances:
                nowhere = self._figures.setdefault((label, ""), _Figures())
                nowhere.add(self._figures.pop((label, name)))

    def to_json(self) -> dict[str, Any]:
        """Return a report: a copy, of JSON values only, that `add` and `settled` understand.

        May be called from another thread, hence the lists: iterating over a dictionary that grows
        is an error, copying it is one step.
        """
        routed = list(self._routed.items())
        methods: defaultdict[str, _Figures] = defaultdict(_Figures)
        instances: defaultdict[str, _Figures] = defaultdict(_Figures)
        for (label, name), figures in list(self._figures.items()):
            methods[label].add(figures)
            if name:
                instances[name].add(figures)
        return {
            "connections": dict(self._opened),
            "connections_open": dict(self._open),
            "requests": {name: dict(labels) for name, labels in routed},
            "durations": {label: each.buckets for label, each in methods.items()},
            "seconds": {label: each.seconds for label, each in methods.items()},
            "responses": {
                label: {str(code): count for code, count in each.codes.items()}
                for label, each in methods.items()
            },
            "instance_durations": {name: each.buckets for name, each in instances.items()},
            "instance_seconds": {name: each.seconds for name, each in instances.items()},
            "instance_in_flight": dict(self.instance_in_flight),
            "in_flight": self.in_flight,
            "client_connections": self.client_connections,
            "queued": self.queued,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "rejected": dict(self.rejected),
            "broken": {side: dict(reasons) for side, reasons in self.broken.items()},
            "tls_expires": self._certificate and self._certificate.expires,
            "tls_reloads": dict(self._certificate.reloads) if self._certificate else {},
        }


def add(base: dict[str, Any], report: dict[str, Any]) -> dict[str, Any]:
    """Return the sum of two reports, key by key; neither is changed.

    Of two certificates the one that expires first counts.
    """
    total = {key: _sum(base.get(key), report.get(key)) for key in base.keys() | report.keys()}
    if base.get("tls_expires") and report.get("tls_expires"):
        total["tls_expires"] = min(base["tls_expires"], report["tls_expires"])
    return total


def _sum(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    if isinstance(left, dict):
        return add(left, right)
    if isinstance(left, list):
        return [a + b for a, b in zip(left, right, strict=True)]
    return left + right


def settled(report: dict[str, Any]) -> dict[str, Any]:
    """Return what remains of the report of a worker that is dead: all but its gauges."""
    return {key: value for key, value in report.items() if key not in GAUGES}


def without(report: dict[str, Any], instance: str) -> dict[str, Any]:
    """Return the report without the series of one instance."""
    by_instance = (
        *("connections", "connections_open", "requests"),
        *("instance_durations", "instance_seconds", "instance_in_flight"),
    )
    return report | {
        key: {name: value for name, value in report[key].items() if name != instance}
        for key in by_instance
        if key in report
    }
