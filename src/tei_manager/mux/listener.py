"""Accepts clients and gives each of their calls the owner that serves it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tei_manager.grpc.methods import METHODS, NATIVE, Kind, Method
from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.bidi import BidiRelay
from tei_manager.mux.call import Call
from tei_manager.mux.endpoint import CLOSE_SECONDS, Endpoint
from tei_manager.mux.handshake import objection
from tei_manager.mux.local import SERVICES, LocalCall
from tei_manager.mux.not_grpc import NotGrpc
from tei_manager.mux.opaque import OpaqueRelay, passes
from tei_manager.mux.pace import Pace
from tei_manager.mux.relay import Relay
from tei_manager.mux.switch import AT_LIMIT, Switch
from tei_manager.tls import Certificates
from tei_manager.wire import metadata
from tei_manager.wire.frames import ErrorCode
from tei_manager.wire.headers import ANSWER, PUSHBACK, RequestHead, server_heads, status_trailers
from tei_manager.wire.stream import NOBODY, Stream

_METHODS: dict[bytes, Method] = {
    path.encode(): method for path, method in (METHODS | NATIVE).items()
}

MAX_METADATA = 1 << 20
"""Octets of metadata that the calls of one connection may have, small ones apart: 128 calls with
8 KiB. A table entry makes kilobytes of a few octets (CVE-2026-49975)."""


class Client(Endpoint):
    """One client's connection.

    Args:
        switch: What all connections of the worker share.
        gone: Called when the connection is lost.
        certificates: Who may stay on a connection with TLS; ``None`` on one without.

    Attributes:
        met: Whether the connection was made, so that it will be lost.
    """

    def __init__(
        self, switch: Switch, gone: Callable[[], None], certificates: Certificates | None = None
    ) -> None:
        limit = switch.options.max_parallel_streams
        super().__init__(switch, client=False, heads=server_heads(), max_streams=limit)
        self._gone = gone
        self._certificates = certificates
        self.met = False
        self._busy_at = switch.now
        self._pace = Pace()
        self._sent = (0, 0)
        self._sent_at = switch.now

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the client, and start its connection."""
        self.met = True
        self.switch.counters.client_connections += 1
        self.switch.quiet.clear()
        super().connection_made(transport)
        if self._certificates is not None and (found := objection(self._certificates, transport)):
            self.switch.counters.reject(found[0])
            self.connection.fail(ErrorCode.INADEQUATE_SECURITY, found[1])
            self.switch.flush()

    def on_request(self, stream: Stream, head: RequestHead, end: bool) -> None:
        """Give a call to who serves it, or refuse it."""
        switch = self.switch
        if (head.content_type != metadata.GRPC or head.method != b"POST") and not _is_grpc(head):
            stream.owner = http = NotGrpc(switch, self.connection, stream)
            if end:
                http.on_data(b"", True)
            return
        switch.counters.in_flight += 1
        refusal = head.refusal
        if refusal is None and switch.pool.queued > switch.memory_mark:
            refusal = _short(AT_LIMIT)
        elif self.connection.held_metadata > MAX_METADATA:
            refusal = _short("The calls of this connection carry too much metadata")
        method = _METHODS.get(head.path or b"")
        if refusal is not None:
            more = PUSHBACK if refusal is not head.refusal else b""  # room comes back in time
            self._refuse(stream, label_of(head.path), refusal, more)
            if self.connection.held_metadata > MAX_METADATA:
                self.connection.budget.local_reset(switch.now)  # goes on all the same: an attack
        elif method is not None:
            serve = Relay if method.kind is Kind.UNARY else _streaming(method.kind)
            stream.owner = owner = serve(switch, self.connection, stream, head, method)
            if end:
                owner.on_data(b"", True)
        elif head.path in SERVICES:
            local = LocalCall(switch, self.connection, stream, head, SERVICES[head.path])
            stream.owner = local
            if end:
                local.on_data(b"", True)
        elif switch.options.passthrough == "any" and passes(head.path or b""):
            OpaqueRelay(switch, self.connection, stream, head).begin(end)
        else:
            shown = (head.path or b"").decode("utf-8", "replace")[:128]
            message = f"Method '{shown}' is not served here"
            self._refuse(stream, "other", StatusError(Code.UNIMPLEMENTED, message))

    def check(self, now: float) -> None:
        """End calls that do not begin, and a connection that nobody uses or reads.

        Calls are looked at here, and not by a timer of each, since nearly all begin at once.
        """
        super().check(now)
        connection = self.connection
        if connection.closing:
            return
        if self._is_stalled(now):
            connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "answers are not read")
        elif connection.streams:
            self._busy_at = now
            self._end_silent_calls(now - self.switch.options.first_message_secs)
            self._pace.look(list(connection.streams.values()), now)
            if self.switch.pool.queued > self.switch.memory_mark:
                self._end_slow_calls(now - self.switch.options.send_timeout_secs)
        elif self.switch.pool.queued > self.switch.memory_critical:
            connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "idle while memory is short")
        else:
            self._end_if_idle(now)

    def _end_if_idle(self, now: float) -> None:
        connection = self.connection
        idle = now - max(self._busy_at, connection.now) - self.switch.options.client_idle_secs
        if idle > CLOSE_SECONDS:  # it does not answer the goodbye either
            connection.fail(ErrorCode.NO_ERROR, "idle for too long")
        elif idle > 0:
            connection.drain()

    def lost(self, cause: str) -> None:
        """Cancel every call of a client that went away."""
        self._gone()
        counters = self.switch.counters
        counters.client_connections -= 1
        if not counters.client_connections:
            self.switch.quiet.set()
        for stream in list(self.connection.streams.values()):
            owner = stream.owner
            self.connection.forget(stream)
            owner.on_reset(0, cause)

    def _is_stalled(self, now: float) -> bool:
        """Say whether something has waited for this client for long, and nothing of it went out.

        One that does not even read its socket is soon taken for dead. One that only keeps its
        windows shut may be a caller who thinks about an answer, and gets as long as an idle one.
        """
        transport, connection = self.transport, self.connection
        sent = (connection.data_frames, transport.get_write_buffer_size() if transport else 0)
        if sent != self._sent or not (sent[1] or connection.streams):
            self._sent, self._sent_at = sent, now
        options, waited = self.switch.options, now - self._sent_at
        if waited < options.send_timeout_secs:
            return False
        if waited < max(options.send_timeout_secs, options.client_idle_secs):
            return bool(sent[1])
        return bool(sent[1]) or any(stream.queued for stream in connection.streams.values())

    def _end_silent_calls(self, overdue: float) -> None:
        for stream in list(self.connection.streams.values()):
            if stream.opened_at > overdue:
                return  # and so are all behind it: they stand in the order of their beginning
            owner = stream.owner
            if isinstance(owner, Call | LocalCall):
                owner.end_if_silent()

    def _end_slow_calls(self, overdue: float) -> None:
        for stream in self._pace.slow(overdue):
            owner = stream.owner
            self.connection.reset(stream, ErrorCode.ENHANCE_YOUR_CALM)
            owner.on_reset(ErrorCode.ENHANCE_YOUR_CALM, "too slow while memory is short")
            self.switch.counters.reject("slow_while_memory_is_short")

    def _refuse(self, stream: Stream, label: str, error: StatusError, more: bytes = b"") -> None:
        stream.owner = NOBODY
        block = ANSWER + status_trailers(error.code, error.message) + more
        self.connection.send_headers(stream, block, True)
        self.connection.release_slot()
        self.switch.rejected(error.code.name.lower(), error.code)
        self.switch.counters.finished(label, error.code, 0.0)


def label_of(path: bytes | None) -> str:
    """Return what counters call the method of a path."""
    method = _METHODS.get(path or b"")
    return method.label if method else "other"


def _streaming(kind: Kind) -> type[Call]:
    if kind is Kind.BIDI:
        return BidiRelay
    # Loads the protobuf runtime, which a worker needs for nothing else on most days.
    from tei_manager.mux.rerank import RerankStream

    return RerankStream


def _short(message: str) -> StatusError:
    return StatusError(Code.RESOURCE_EXHAUSTED, message)


def _is_grpc(head: RequestHead) -> bool:
    """Say whether a request is a gRPC call."""
    if head.refusal is not None and not head.path:
        return True  # its headers were too many to be read, and get the status that says so
    return head.method == b"POST" and metadata.is_grpc(head.content_type)
