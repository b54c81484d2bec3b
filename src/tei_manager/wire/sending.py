"""The sending half of an HTTP/2 connection: frames out, under the peer's windows and sizes.

Theory
    Frames collect in ``out`` until the shell takes them with `take` and writes them in one go. A
    connection whose ``out`` becomes non-empty puts its handler on the shared ``dirty`` list, so
    that the shell knows which of a thousand connections have something to write.

    DATA goes straight to ``out`` when windows, frame size and transport allow it, which is nearly
    always. Otherwise it waits in its stream's queue, and the stream waits in one of two places:
    ``ready`` (only the connection's window or the transport holds it back; served in turn, a frame
    each) or nowhere (its own window holds it back; a WINDOW_UPDATE brings it to ``ready``).
    ``held`` are those of the second kind that any connection-wide credit may free.

Rules of this file
    1. Only DATA is flow-controlled; everything else goes out at once, also to a paused transport.
    2. What is in a queue was paid for by a window that we granted to the other side of the proxy,
       and the owner gives credit there only as `StreamOwner.on_sent` reports progress.
"""

from __future__ import annotations

from collections import deque

from tei_manager.wire import frames, hpack
from tei_manager.wire.frames import (
    DEFAULT_MAX_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    pack_header,
)
from tei_manager.wire.handler import ConnectionHandler
from tei_manager.wire.limits import AbuseBudget
from tei_manager.wire.stream import NOBODY, Stream
from tei_manager.wire.windows import LARGEST_STREAM_WINDOW, WindowPool, may_hold

MAX_QUEUED_CONTROL = 100
"""Control frames that may wait for a transport that is paused; then we stop reading that peer
(grpc-go stops at the same number)."""

RECENT_RESETS = 8192
"""How many streams that we reset are remembered, so that what the peer had under way for them is
ignored and not taken for an attack. h2 remembers 1,024, but one connection of ours carries the
calls of many clients, which may all go away at once."""

RESET_BY_PEER = -1
"""In place of the octets that may be under way, where it was the peer who reset the stream."""


class SendingHalf:
    """Frames out. `Connection` adds the way in.

    Args:
        handler: Who is told about the connection, and flushes it.
        client: Whether we opened the connection (towards an instance) or accepted it.
        dirty: Shared list on which a connection with something to write puts its handler.
        pool: Shared pool of extra stream window.
    """

    def __init__(
        self,
        handler: ConnectionHandler,
        client: bool,
        dirty: list[ConnectionHandler],
        pool: WindowPool,
    ) -> None:
        self.handler = handler
        self.client = client
        self.dirty = dirty
        self.pool = pool
        self.budget = AbuseBudget()
        self.streams: dict[int, Stream] = {}
        self.out: list[bytes] = []
        self.writable = True
        self.closing = False
        self.going = False
        self.send_window = DEFAULT_WINDOW
        self.largest_send_window = DEFAULT_WINDOW
        self.peer_initial_window = DEFAULT_WINDOW
        self.peer_max_frame = DEFAULT_MAX_FRAME
        self.ready: dict[Stream, None] = {}
        self.held: dict[Stream, None] = {}
        self.data_frames = 0
        self.recent_resets: dict[int, int] = {}  # octets that may be under way for them
        self.peer_table_size = hpack.DEFAULT_TABLE_SIZE
        self._size_update = b""

    def take(self) -> bytes:
        """Return all that is to be written, and forget it."""
        data = b"".join(self.out)
        self.out.clear()
        return data

    def emit(self, data: bytes) -> None:
        """Queue whole frames for writing."""
        if not self.out:
            self.dirty.append(self.handler)
        self.out.append(data)

    @property
    def congested(self) -> bool:
        """Whether so much control traffic waits that this peer should not be read from."""
        return not self.writable and len(self.out) > MAX_QUEUED_CONTROL

    def set_writable(self, writable: bool) -> None:
        """Say whether the transport takes more; queued DATA flows again when it does."""
        self.writable = writable
        if writable and self.ready:
            self.pump()

    def send_headers(self, stream: Stream, block: bytes, end: bool) -> None:
        """Send a header block; as trailers, behind any DATA of the stream that still waits."""
        if stream.queue:
            stream.tail = block
            return
        if self._size_update:
            block = self._size_update + block
            self._size_update = b""
        size = len(block)
        out = self.out
        if not out:
            self.dirty.append(self.handler)
        if size <= self.peer_max_frame:
            out.append(pack_header(size << 8 | HEADERS, END_HEADERS | end, stream.id))
            out.append(block)
        else:
            out.append(frames.header_frames(stream.id, block, end, self.peer_max_frame))
        if end:
            self._end_local(stream)

    def send_data(self, stream: Stream, data: bytes, end: bool) -> None:
        """Send payload, now or as soon as windows and transport allow; never refused."""
        size = len(data)
        if (
            size <= stream.send_window
            and size <= self.send_window
            and size <= self.peer_max_frame
            and self.writable
            and not stream.queue
            and not (self.client and not self._may_hold(stream, size))
        ):
            stream.send_window -= size
            stream.outstanding += size
            self.send_window -= size
            self.data_frames += 1
            out = self.out
            if not out:
                self.dirty.append(self.handler)
            out.append(pack_header(size << 8, end, stream.id))
            out.append(data)
            if end:
                self._end_local(stream)
            return
        if not size:
            self._send_nothing(stream, end)
            return
        if stream.queue is None:
            stream.queue = deque()
        stream.queue.append(data)
        stream.queued += size
        self.pool.queued += size
        stream.end_queued = end
        self.ready[stream] = None
        self.pump()

    def send_question(self, stream: Stream, block: bytes, data: bytes) -> bool:
        """Send a whole question in one piece on a new stream; False if that may not be now."""
        size = len(data)
        largest = self.peer_max_frame
        if (
            size > stream.send_window
            or size > self.send_window
            or size > largest
            or len(block) > largest
            or not self.writable
            or self._size_update
            or not may_hold(size, self.send_window, self.largest_send_window)
        ):
            return False
        number = stream.id
        stream.send_window -= size
        stream.outstanding = size
        stream.local_closed = True
        self.send_window -= size
        self.data_frames += 1
        out = self.out
        if not out:
            self.dirty.append(self.handler)
        out += (
            pack_header(len(block) << 8 | HEADERS, END_HEADERS, number),
            block,
            pack_header(size << 8, END_STREAM, number),
            data,
        )
        return True

    def send_answer(self, stream: Stream, answer: bytes, data: bytes, trailers: bytes) -> bool:
        """Send a whole answer in one piece, and end the stream; False if that may not be now.

        Each part is at most `DEFAULT_MAX_FRAME` long, which every peer takes.
        """
        size = len(data)
        if (
            size > stream.send_window
            or size > self.send_window
            or not self.writable
            or self._size_update
        ):
            return False
        self.send_window -= size
        self.data_frames += 1
        out = self.out
        if not out:
            self.dirty.append(self.handler)
        number = stream.id
        out += (
            pack_header(len(answer) << 8 | HEADERS, END_HEADERS, number),
            answer,
            pack_header(size << 8, 0, number),
            data,
            pack_header(len(trailers) << 8 | HEADERS, END_HEADERS | END_STREAM, number),
            trailers,
        )
        self._end_local(stream)
        return True

    def reset(self, stream: Stream, code: int) -> None:
        """End the stream with RST_STREAM. Its owner is not told: it is the one who asks."""
        self.emit(frames.rst_stream(stream.id, code))
        if not stream.remote_closed:
            self.remember(stream.id, max(0, stream.recv_window))
        self.forget(stream)

    def remember(self, stream_id: int, octets: int) -> None:
        """Expect frames on a stream that was reset: ``octets`` of DATA, or `RESET_BY_PEER`."""
        if len(self.recent_resets) >= RECENT_RESETS:
            del self.recent_resets[next(iter(self.recent_resets))]
        self.recent_resets[stream_id] = octets

    def credit(self, stream: Stream, octets: int) -> None:
        """Note that the other side took ``octets`` of the stream; tells the peer in halves."""
        if stream.remote_closed or octets <= 0:
            return
        stream.consumed += octets
        if stream.consumed * 2 >= stream.window:
            self._grant(stream)

    def pump(self) -> None:
        """Send queued DATA, a frame for each ready stream in turn, while anything allows it."""
        ready = self.ready
        while ready and self.writable:
            stream = next(iter(ready))
            queue = stream.queue
            if not queue:
                del ready[stream]
                continue
            size = self._allowance(stream)
            if not size:
                if self.send_window <= 0:
                    return
                del ready[stream]
                if stream.send_window > 0:
                    self.held[stream] = None
                continue
            del ready[stream]
            self._send_queued(stream, queue, size)
            if stream.queue and not stream.local_closed:
                ready[stream] = None

    def window_grew(self, stream: Stream | None) -> None:
        """Wake what waited for credit: one stream, or all that the connection held back."""
        if stream is None:
            self.ready.update(self.held)
            self.held.clear()
        elif stream.queue:
            self.held.pop(stream, None)
            self.ready[stream] = None
        if self.ready:
            self.pump()

    def forget(self, stream: Stream) -> None:
        """Drop all that is held for a stream. Safe to call twice."""
        if self.streams.pop(stream.id, None) is None:
            return
        stream.local_closed = stream.remote_closed = True
        stream.owner = NOBODY
        if stream.queue is not None:
            self.ready.pop(stream, None)
            self.held.pop(stream, None)
            stream.queue = None
            self.pool.queued -= stream.queued
            stream.queued = 0
        if stream.borrowed:
            self.pool.give_back(stream.borrowed)
            stream.borrowed = 0
        if self.going and not self.streams:
            self.closing = True
            self.emit(b"")

    def table_size_changed(self, size: int) -> None:
        """Follow the peer's SETTINGS_HEADER_TABLE_SIZE: our next block says so (RFC 7541 4.2).

        We use no table, so we settle for none: that is below every size that the peer may have
        asked for since our last block.
        """
        if size < hpack.DEFAULT_TABLE_SIZE:
            self._size_update = hpack.size_update(0)

    def _may_hold(self, stream: Stream, size: int) -> bool:
        return may_hold(stream.outstanding + size, self.send_window, self.largest_send_window)

    def _allowance(self, stream: Stream) -> int:
        if self.client and not self._may_hold(stream, 0):
            return 0
        return max(0, min(self.peer_max_frame, self.send_window, stream.send_window))

    def _send_nothing(self, stream: Stream, end: bool) -> None:
        """Send an empty frame, which needs no window, or let what waits before it say the end."""
        if stream.queue:
            stream.end_queued = end
            return
        self.emit(pack_header(0, end, stream.id))
        if end:
            self._end_local(stream)

    def _send_queued(self, stream: Stream, queue: deque[bytes], size: int) -> None:
        data = queue.popleft()
        if len(data) > size:
            queue.appendleft(data[size:])
            data = data[:size]
        size = len(data)
        stream.queued -= size
        stream.drained += size
        self.pool.queued -= size
        stream.send_window -= size
        stream.outstanding += size
        self.send_window -= size
        self.data_frames += 1
        end = stream.end_queued and not queue
        self.emit(pack_header(size << 8, end, stream.id) + data)
        owner = stream.owner
        if not queue and stream.tail is not None:
            stream.queue = None
            self.send_headers(stream, stream.tail, True)
        elif end:
            self._end_local(stream)
        owner.on_sent()

    def _end_local(self, stream: Stream) -> None:
        stream.local_closed = True
        if stream.remote_closed:
            self.forget(stream)
        elif not self.client:
            # The answer is complete, so the rest of the question is not wanted (RFC 9113 8.1).
            self.reset(stream, frames.ErrorCode.NO_ERROR)

    def _grant(self, stream: Stream) -> None:
        octets = stream.consumed
        stream.consumed = 0
        stream.moved += octets
        if stream.moved >= stream.window and stream.window < LARGEST_STREAM_WINDOW:
            wanted = min(stream.window, LARGEST_STREAM_WINDOW - stream.window)
            extra = self.pool.borrow(wanted)
            stream.borrowed += extra
            stream.window += extra
            octets += extra
        stream.recv_window += octets
        self.emit(frames.window_update(stream.id, octets))
