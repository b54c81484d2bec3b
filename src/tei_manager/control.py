"""What the manager and its workers say to each other: one JSON document a line, both ways.

A worker listens on a Unix socket in the run directory, and the manager connects. The worker begins
with a `Hello`, with which the descriptors of its listening sockets travel (SCM_RIGHTS): that of the
port, and that of the clients' Unix socket if there is one. So a manager that comes back can take
the sockets over. Then, in any order:

    manager → worker   ``table``     with the fields of `RouteTable.to_json`, always the whole table
    worker → manager   ``under_way`` ``calls`` that processes still have which get no more, by key
                                     of their route: before each ``applied``, and when one has none
                       ``applied``   the ``version`` of each table that is in force
                       ``counters``  `Counters.to_json`, once a second, the first at once and
                                     the last when the worker ends
                       ``draining``  once: it takes no more clients, and ends when its calls have

A worker that drains has removed its socket: no manager finds it any more.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

PROTOCOL = 2
"""Raised with every change of what is said here, the keys and the buckets of counters included.
What a `Hello` has now stays, so that it can always be read."""

REPORT_SECONDS = 1.0
"""How often a worker reports: metrics are at most so old (design.md 3)."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who a worker is.

    Args:
        pid: Its process.
        version: Of this package, as the worker runs it.
        options: The limits that it was started with.
        protocol: The `PROTOCOL` that it speaks.
    """

    pid: int
    version: str
    options: dict[str, Any]
    protocol: int = PROTOCOL

    def to_line(self) -> bytes:
        """Return the first line that a worker sends."""
        names = ("pid", "version", "options", "protocol")
        return line("hello", **{name: getattr(self, name) for name in names})

    @classmethod
    def from_line(cls, text: bytes) -> Hello:
        """Read what `to_line` wrote; what a later protocol adds is passed over.

        Raises:
            ValueError: The line is no hello.
        """
        try:
            said = json.loads(text)
            if said["type"] != "hello":
                raise ValueError("not a hello")
            options = dict(said["options"])
            return cls(int(said["pid"]), str(said["version"]), options, int(said["protocol"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a hello: {error!r}") from error


def line(kind: str, **fields: Any) -> bytes:
    """Return one document of a kind as a line."""
    return json.dumps({"type": kind, **fields}, separators=(",", ":")).encode() + b"\n"
