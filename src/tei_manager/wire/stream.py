"""One HTTP/2 stream as a connection sees it: what is open, what may be sent, who owns it."""

from __future__ import annotations

from collections import deque
from typing import Any, Protocol

from tei_manager.wire.windows import STREAM_WINDOW


class StreamOwner(Protocol):
    """What a connection tells the owner of a stream. Calls are synchronous and never nested in I/O.

    After `on_reset`, or once both sides ended the stream, nothing more is called.
    """

    def on_headers(self, head: Any, end: bool) -> None:
        """A header block came: a response head, or trailers. ``end``: the peer sends no more."""

    def on_data(self, data: bytes, end: bool) -> None:
        """Payload came. The owner owes a `Connection.credit` for these octets."""

    def on_reset(self, code: int, reason: str) -> None:
        """The stream is gone: reset by the peer, or by us because the peer broke it."""

    def on_sent(self) -> None:
        """Queued octets went out; ``stream.queued`` says how many still wait."""


class _Nobody:
    """Owns streams whose owner has turned away."""

    def on_headers(self, head: Any, end: bool) -> None: ...

    def on_data(self, data: bytes, end: bool) -> None: ...

    def on_reset(self, code: int, reason: str) -> None: ...

    def on_sent(self) -> None: ...


NOBODY: StreamOwner = _Nobody()


class Stream:
    """The state of one stream. Only its connection writes here, except for ``owner``.

    ``window`` is how much the peer may have in flight, ``recv_window`` what is left of it, and
    ``consumed`` what the owner took and the peer has not been told of. ``send_window`` is what the
    peer lets us send, ``outstanding`` what we sent and it gave no credit for. ``queue`` holds
    payload that may not go out yet, ``queued`` its octets, ``drained`` those that ever waited there
    and went out, and ``tail`` the trailers behind it.
    """

    __slots__ = (
        "borrowed",
        "consumed",
        "drained",
        "end_queued",
        "expected",
        "got_head",
        "id",
        "local_closed",
        "moved",
        "opened_at",
        "outstanding",
        "owner",
        "queue",
        "queued",
        "recv_window",
        "remote_closed",
        "send_window",
        "tail",
        "window",
    )

    def __init__(self, stream_id: int, send_window: int, opened_at: float) -> None:
        self.id = stream_id
        self.owner: StreamOwner = NOBODY
        self.opened_at = opened_at
        self.local_closed = False
        self.remote_closed = False
        self.got_head = False
        self.expected = -1  # octets that content-length still promises; -1: it promised nothing
        self.send_window = send_window
        self.outstanding = 0
        self.queue: deque[bytes] | None = None
        self.queued = 0
        self.drained = 0
        self.end_queued = False
        self.tail: bytes | None = None
        self.window = STREAM_WINDOW
        self.recv_window = STREAM_WINDOW
        self.consumed = 0
        self.moved = 0
        self.borrowed = 0

    def __repr__(self) -> str:
        sides = "".join(
            "-" if closed else "o" for closed in (self.local_closed, self.remote_closed)
        )
        return f"<Stream {self.id} {sides} send={self.send_window} queued={self.queued}>"
