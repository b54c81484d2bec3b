"""What all connections of one worker share, and the one place where they are flushed.

Flushing adapts. With few calls under way, or one client, each chunk that was received is acted upon
at once, which is what latency wants. With many calls of several clients, connections are flushed
once for each turn of the event loop: a turn that read from twenty connections makes one write of
what goes to their common instance.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from time import monotonic

from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.backends import Backends
from tei_manager.mux.deadlines import Deadlines
from tei_manager.mux.director import Director
from tei_manager.mux.endpoint import Endpoint, Traffic
from tei_manager.mux.health import Health
from tei_manager.resolver import Resolver
from tei_manager.routes import RouteTable
from tei_manager.telemetry.counters import Counters
from tei_manager.wire.handler import ConnectionHandler
from tei_manager.wire.windows import WindowPool

logger = logging.getLogger(__name__)

FEW_CALLS = 4
"""Calls under way up to which every chunk is flushed at once. Above it, waiting for the end of the
turn saves 6 % of a call's cost with 20 clients and 19 % with 100, and costs 5 % with a single
client (docs/performance.md)."""

CHECK_SECONDS = 0.5
"""How often connections are looked after: slow peers, keep-alive, idle backends."""

MEMORY_MARK = 0.8
"""Share of the memory limit above which new calls are refused (design.md 6.3)."""

MEMORY_CRITICAL = 0.95
"""Share above which clients without calls are let go too (Envoy's overload manager: 95 %), and
calls refused that would have more of their octets held."""

AT_LIMIT = "The multiplexer is at its memory limit; try again later"


@dataclass(frozen=True, slots=True)
class Options:
    """Limits of a worker; the settings of the same names.

    ``request_timeout_secs`` is for unary calls whose caller set no deadline, 0 for none.
    ``keepalive_secs`` is how long a connection with calls may be silent before we send a PING,
    ``keepalive_timeout_secs`` how long we wait for its answer.
    ``max_connections`` is how many clients may be connected, ``max_connections_of_address`` how
    many of them from one address that is not the machine's own.
    ``max_unanswered`` is how many messages of one bidirectional call an instance may have that it
    has not answered; half of the max_concurrent_requests that TEI has by default.
    ``first_message_secs`` is how long a call may take to say where it goes before it is ended with
    UNAVAILABLE, since nothing of it was processed; its deadline, if that is earlier, ends it with
    DEADLINE_EXCEEDED. ``client_idle_secs`` is how long a client's connection may be without a call
    and without a sign of life, such as a PING, before it is drained. ``send_timeout_secs`` is how
    long a client may read nothing from its socket while something waits there before its
    connection ends; with open sockets and shut windows it has ``client_idle_secs``. It is also how
    long a call may be slower than `pace.RATE` while memory is short. (These
    defaults: rows A14, A15 and A18 of the attacks that the wire is tested with.)
    ``passthrough`` says what becomes of calls of methods that are not ours: "none" is refused,
    "any" goes to the instance that the metadata names, as it comes.
    """

    max_parallel_streams: int = 1024
    request_timeout_secs: float = 30.0
    max_message_mb: int = 64
    memory_limit_mb: int = 512
    keepalive_secs: float = 30.0
    keepalive_timeout_secs: float = 10.0
    connect_timeout_secs: float = 5.0
    max_connections: int = 1000
    max_connections_of_address: int = 100
    max_unanswered: int = 256
    first_message_secs: float = 30.0
    client_idle_secs: float = 300.0
    send_timeout_secs: float = 30.0
    passthrough: str = "none"


class Switch:
    """The state that clients' calls and instances' connections of one worker have in common.

    Args:
        loop: The worker's event loop.
        options: Its limits.
        counters: Where calls are counted.

    ``memory_mark`` is how many octets may be held for callers before new calls are refused,
    ``memory_critical`` before clients without calls have to go.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, options: Options, counters: Counters
    ) -> None:
        self.loop = loop
        self.options = options
        self.counters = counters
        self.now = monotonic()
        self.client_traffic = Traffic()
        self.backend_traffic = Traffic()
        self.dirty: list[ConnectionHandler] = []
        self.endpoints: set[Endpoint] = set()
        self.pool = WindowPool()
        self.resolver = Resolver()
        self.deadlines = Deadlines(loop)
        self.backends = Backends(self)
        self.director = Director(self.backends.load)
        self.health = Health()
        self.memory_mark = int(options.memory_limit_mb * MEMORY_MARK * (1 << 20))
        self.memory_critical = int(options.memory_limit_mb * MEMORY_CRITICAL * (1 << 20))
        self.quiet = asyncio.Event()  # set while no client is connected
        self.quiet.set()
        self._flush_due = False
        self._timer = loop.call_later(CHECK_SECONDS, self._check)

    def apply(self, table: RouteTable) -> None:
        """Route by ``table`` from the next call on."""
        self.director.apply(table)
        self.backends.apply(table)
        self.health.apply(table)
        self.flush_soon()

    def check_memory(self) -> None:
        """Raise `StatusError` where nothing more may be held, not even for calls under way."""
        if self.pool.queued > self.memory_critical:
            raise StatusError(Code.RESOURCE_EXHAUSTED, AT_LIMIT)

    def flush_soon(self) -> None:
        """Flush at once, or at the end of this turn of the loop, whichever is cheaper now."""
        counters, dirty = self.counters, self.dirty
        if counters.client_connections == 1 or counters.in_flight <= FEW_CALLS:
            while dirty:
                dirty.pop().flush()
        elif dirty and not self._flush_due:
            self._flush_due = True
            self.loop.call_soon(self._flush_at_end)

    def flush(self) -> None:
        """Write out every connection that has something to write."""
        dirty = self.dirty
        while dirty:
            dirty.pop().flush()

    def rejected(self, reason: str, code: Code) -> None:
        """Count a call that was refused before it had a method or an instance."""
        self.counters.reject(reason)
        logger.debug("refused a call: %s (%s)", reason, code.name)

    def close(self) -> None:
        """Stop all timers and cut all connections; nothing is drained."""
        self._timer.cancel()
        self.deadlines.close()
        self.backends.close()
        for endpoint in list(self.endpoints):
            if endpoint.transport is not None:
                endpoint.transport.abort()

    def _flush_at_end(self) -> None:
        self._flush_due = False
        self.flush()

    def _check(self) -> None:
        self._timer = self.loop.call_later(CHECK_SECONDS, self._check)  # whatever comes of this one
        self.now = now = monotonic()
        for endpoint in list(self.endpoints):
            endpoint.check(now)
        self.counters.bytes_in = self.client_traffic.received
        self.counters.bytes_out = self.client_traffic.sent
        self.counters.queued = self.backends.waiting()
        self.counters.instance_in_flight = self.backends.in_flight()
        self.flush()
