"""One HTTP/2 connection, either role: bytes in, calls to owners and handler, bytes out (RFC 9113).

Theory
    `receive` walks over the frames of a chunk in place. Each kind of frame has one method, found
    by its number. What a frame means goes straight to the one concerned: the stream's owner, or
    the handler for what concerns the connection. There are no event objects and no queues between.

    A frame is acted on when it is whole, so an unfinished one is held: 16 KiB at most, since that
    is the only frame size that we advertise. A header block is held until END_HEADERS, decoded
    once, and its reading is remembered by its bytes for as long as the dynamic table stands still.

Rules of this file
    1. Whatever a peer sends ends in a call to an owner, or in GOAWAY or RST_STREAM with a named
       code. Any other exception is our bug.
    2. It never decides what a call means: no path, status or metadata is looked at here.
    3. One `receive` does a bounded amount of work (`MAX_FRAMES`); what is left is kept,
       ``backlog`` is true, and the shell calls again in the next turn of its loop.
    4. ``slots`` counts calls that a client has started and that are not over *at the backend*:
       the listener releases them (design.md 6.2). What a client resets frees nothing here.

Known flaws
    Frames on a stream that the peer has ended, or that a client has reset, are a connection error,
    which is stricter than RFC 9113 5.1 asks; no client measured sends them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from tei_manager.wire import frames
from tei_manager.wire.control import ControlHalf
from tei_manager.wire.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    LARGEST_STREAM_ID,
    PREFACE,
    ErrorCode,
    ProtocolError,
    StreamError,
    unpack_header,
    unpack_u32,
)
from tei_manager.wire.handler import ConnectionHandler
from tei_manager.wire.headers import HeadReader
from tei_manager.wire.hpack import HpackError
from tei_manager.wire.limits import SMALL_DATA
from tei_manager.wire.run import data_run
from tei_manager.wire.sending import RESET_BY_PEER
from tei_manager.wire.stream import Stream
from tei_manager.wire.whole import whole_answer, whole_question
from tei_manager.wire.windows import CONNECTION_WINDOW, WindowPool

MAX_FRAMES = 512
"""Frames that one `receive` acts on: a few milliseconds, so that one peer cannot hold the loop."""

HEADERS_COST = 8
"""A HEADERS frame costs as much as several others: 64 calls are started by one `receive`, which
takes about two milliseconds (A1 in the flood table)."""

TOO_LONG = (frames.DEFAULT_MAX_FRAME + 1) << 8
"""The first word of the first frame header that says too much: 24 bits of length, 8 of type."""

MAX_CONTINUATIONS = 8
MAX_BLOCK = 64 << 10
"""Octets of an encoded header block; the decoded list may be a quarter of that (`hpack`)."""

PREFACE_SECONDS = 5.0
BLOCK_SECONDS = 5.0
"""How long a peer may take for its preface and first SETTINGS, and for one header block."""


class Connection(ControlHalf):
    """One HTTP/2 connection. Feed it with `receive`; write what `take` gives when it is dirty.

    Args:
        handler: Who is told about the connection.
        client: Whether we opened it.
        dirty: Shared list of handlers whose connections have something to write.
        pool: Shared pool of extra stream window.
        heads: Reads header blocks for this role; has the HPACK state, so one for each connection.
        max_streams: Calls that a client may have under way; advertised, and enforced by ``slots``.
        now: Seconds on a monotonic clock.
    """

    def __init__(
        self,
        handler: ConnectionHandler,
        *,
        client: bool,
        dirty: list[ConnectionHandler],
        pool: WindowPool,
        heads: HeadReader,
        max_streams: int = 0,
        now: float = 0.0,
    ) -> None:
        super().__init__(handler, client, dirty, pool, now)
        self.heads = heads
        self.max_streams = max_streams
        self.slots = 0
        self.held_metadata = 0  # kept by whoever serves the calls, for its own limit
        self.backlog = False
        self.work = 0  # what owners say that this turn's frames cost them beside one each
        self.recv_window = CONNECTION_WINDOW
        self._granted = CONNECTION_WINDOW  # window of the connection that the peer ever got
        self._rest = b""
        self._block_stream = 0
        self._block_end = False
        self._block_since = 0.0

    def __repr__(self) -> str:
        return f"<Connection client={self.client} streams={len(self.streams)} slots={self.slots}>"

    @property
    def received(self) -> int:
        """Octets of DATA that came so far."""
        return self._granted - self.recv_window

    def start(self) -> None:
        """Send the preface, our settings, and the connection's full window."""
        values = {frames.MAX_HEADER_LIST_SIZE: self.heads.max_list_size}
        if self.client:
            values[frames.ENABLE_PUSH] = 0
            # Literals that need no table are quicker to read than entries that come and go, and
            # most of an answer's fields have a new value each time. (nginx asks for the same.)
            values[frames.HEADER_TABLE_SIZE] = 0
            self.emit(PREFACE)
        else:
            values[frames.MAX_CONCURRENT_STREAMS] = self.max_streams
        grow = frames.window_update(0, CONNECTION_WINDOW - DEFAULT_WINDOW)
        self.emit(frames.settings(values) + grow)

    def receive(self, data: bytes | memoryview, now: float) -> None:
        """Act on the next octets from the peer; ``now`` is on the clock of the constructor.

        A view is copied, so what it shows may change once this returns.

        After a protocol error ``closing`` is true, ``error`` says why, and nothing more is read.
        """
        self.now = now
        if self.closing:
            self.backlog = False
            return
        try:
            self._rest = self._walk(self._rest + data if self._rest else bytes(data))
        except ProtocolError as error:
            self._fail(error)
        except HpackError as error:
            self._fail(ProtocolError(ErrorCode.COMPRESSION_ERROR, str(error)))

    def next_deadline(self) -> float:
        """Return when `expire` should be called: the peer is slow with something that it began."""
        if not self.settled:
            return self.opened_at + PREFACE_SECONDS
        return self._block_since + BLOCK_SECONDS if self._block is not None else inf

    def expire(self, now: float) -> None:
        """End the connection if a deadline has passed."""
        if now >= self.next_deadline() and not self.closing:
            self._fail(ProtocolError(ErrorCode.SETTINGS_TIMEOUT, "the peer was too slow"))

    def open_stream(self) -> Stream:
        """Start a stream towards the peer; the caller gives it an owner and sends its headers."""
        stream = Stream(self.next_id, self.peer_initial_window, self.now)
        self.next_id += 2
        self.streams[stream.id] = stream
        return stream

    def release_slot(self) -> None:
        """Free the slot of a call that is over at the backend."""
        self.slots -= 1

    def _walk(self, data: bytes) -> bytes:
        pos = 0
        if self._preface:
            pos = self._match_preface(data)
        end = len(data)
        left = MAX_FRAMES
        self.backlog, self.work = False, 0
        while end - pos >= 9 and not self.closing:
            word, flags, stream_id = unpack_header(data, pos)
            stream_id &= LARGEST_STREAM_ID
            if word >= TOO_LONG:
                raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, f"frame of {word >> 8} octets")
            stop = pos + 9 + (word >> 8)
            if stop > end:
                break
            if left <= self.work:
                self.backlog = True
                break
            kind = word & 0xFF
            if kind == HEADERS:
                left -= HEADERS_COST
                if flags == END_HEADERS and self._block is None and self.settled:
                    whole = whole_answer if self.client else whole_question
                    taken = whole(self, stream_id, data, pos + 9, stop, end)
                    if taken:
                        pos = taken
                        continue
            else:
                left -= 1
                if kind == DATA and not flags and self._block is None and self.settled:
                    taken, count = data_run(self, stream_id, data, pos + 9, stop, end)
                    if taken:
                        pos = taken
                        left -= count
                        continue
            if self._block is not None or not self.settled:
                self._check_order(kind, flags)
            if kind < 10:
                _ACTIONS[kind](self, flags, stream_id, data, pos + 9, stop)
            else:
                self.budget.glitch(self.now)
            pos = stop
        return data[pos:] if pos else data

    def _on_data(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        size = stop - start
        self.recv_window -= size
        if self.recv_window <= CONNECTION_WINDOW // 2:
            self._refill()
        if (size < SMALL_DATA and not flags & END_STREAM) or flags & frames.PADDED:
            padding = data[start] + 1 if flags & frames.PADDED and size else 0
            self.budget.overhead(padding, self.received)
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_closed:
            self._on_closed(stream_id, "DATA", size, bool(flags & END_STREAM))
            return
        stream.recv_window -= size
        if stream.recv_window < 0:
            self._break(stream, ErrorCode.FLOW_CONTROL_ERROR, "stream window overrun")
            return
        if not stream.got_head:
            self._break(stream, ErrorCode.PROTOCOL_ERROR, "DATA before HEADERS")
            return
        end = bool(flags & END_STREAM)
        if flags & frames.PADDED:
            start, stop = self._unpad(data, start, stop)
            self.credit(stream, size - (stop - start))
        if start < stop:
            self.budget.empty_frames = 0
        elif not end:
            self.budget.empty_frame()
        if stream.expected >= 0 and not self._counts(stream, stop - start, end):
            return
        stream.remote_closed = end
        stream.owner.on_data(data[start:stop], end)
        if end and stream.local_closed:
            self.forget(stream)

    def take_data(self, size: int) -> None:
        """Count flow-controlled octets that came with sound frames, and give window for them."""
        self.budget.empty_frames = 0
        self.recv_window -= size
        if self.recv_window <= CONNECTION_WINDOW // 2:
            self._refill()

    def _refill(self) -> None:
        self.emit(frames.window_update(0, CONNECTION_WINDOW - self.recv_window))
        self._granted += CONNECTION_WINDOW - self.recv_window
        self.recv_window = CONNECTION_WINDOW

    def _counts(self, stream: Stream, size: int, end: bool) -> bool:
        """Hold a body against its content-length (RFC 9113 8.1.1); breaks the stream if it lies."""
        stream.expected -= size
        if stream.expected < 0 or (end and stream.expected):
            self._break(stream, ErrorCode.PROTOCOL_ERROR, "body differs from content-length")
            return False
        return True

    def _on_headers(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (frames.PADDED | frames.PRIORITY_FLAG):
            start, stop = self._strip(flags, stream_id, data, start, stop)
        block = data[start:stop]
        end = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            stream = self.streams.get(stream_id)
            if stream is not None and not stream.remote_closed:
                self._on_more_headers(stream, block, end)
            else:
                self._on_block(stream_id, block, end)
            return
        self._block = [block]
        self._block_stream, self._block_end, self._block_since = stream_id, end, self.now

    def _on_continuation(
        self, flags: int, stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        parts = self._block
        if parts is None or stream_id != self._block_stream:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        if start == stop and not flags & END_HEADERS:
            self.budget.empty_frame()
        parts.append(data[start:stop])
        if len(parts) > MAX_CONTINUATIONS + 1 or sum(map(len, parts)) > MAX_BLOCK:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "header block too long")
        if flags & END_HEADERS:
            self._block = None
            self._on_block(stream_id, b"".join(parts), self._block_end)

    def _on_block(self, stream_id: int, block: bytes, end: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.remote_closed:
            self._on_more_headers(stream, block, end)
        elif self.client or stream_id <= self.last_peer_id or stream_id % 2 == 0:
            self.heads.skip(block)
            self._on_closed(stream_id, "HEADERS", 0, end)
        else:
            self.begin(stream_id, block, end)

    def begin(self, stream_id: int, block: bytes, end: bool, body: bytes = b"") -> None:
        """Start a stream of the peer's; ``body`` is all of its payload where that is known."""
        self.last_peer_id = stream_id
        self.peer_streams += 1
        stream = Stream(stream_id, self.peer_initial_window, self.now)
        self.streams[stream_id] = stream
        stream.remote_closed = end
        try:
            head = self.heads.read(block)
        except StreamError as error:
            self._break(stream, error.code, error.message)
            return
        most = self.max_streams  # an answer that nobody reads is a call, too
        if stream_id > self._refuse_above or self.slots >= most or len(self.streams) > most:
            self.reset(stream, ErrorCode.REFUSED_STREAM)
            self.budget.refusal(self.now)
            return
        if end and head.content_length > 0 and head.content_length != len(body):
            self._break(stream, ErrorCode.PROTOCOL_ERROR, "body differs from content-length")
            return
        if not head.path:  # the list was too large to be read
            self.budget.local_reset(self.now)
        self.slots += 1
        stream.got_head = True
        stream.expected = head.content_length
        self.handler.on_request(stream, head, end and not body)
        if body:
            stream.owner.on_data(body, True)
            if stream.local_closed:
                self.forget(stream)

    def _on_more_headers(self, stream: Stream, block: bytes, end: bool) -> None:
        try:
            head = self.heads.read_trailers(block) if stream.got_head else self.heads.read(block)
        except StreamError as error:
            self._break(stream, error.code, error.message)
            return
        if stream.got_head and not end:
            self._break(stream, ErrorCode.PROTOCOL_ERROR, "trailers that do not end the stream")
            return
        if self.client and not stream.got_head and 100 <= head.status < 200 and not end:
            self.budget.glitch(self.now)  # an interim response is not the answer (RFC 9110 15.2)
            return
        if end and stream.expected > 0:
            self._break(stream, ErrorCode.PROTOCOL_ERROR, "body differs from content-length")
            return
        stream.got_head = True
        stream.remote_closed = end
        stream.owner.on_headers(head, end)
        if end and stream.local_closed:
            self.forget(stream)

    def _on_rst_stream(
        self, _flags: int, stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        if stop - start != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not four octets long")
        if stream_id == 0 or self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.client:  # C-core ends a call twice, with its reset in between
                self.remember(stream_id, RESET_BY_PEER)
            else:
                self.recent_resets.pop(stream_id, None)  # nothing more is on its way
            self.budget.glitch(self.now)
            return
        if not self.client and self.now - stream.opened_at < 1.0:
            self.budget.reset(self.now)
        owner = stream.owner
        if self.client:  # C-core sends what it had queued behind its own reset
            self.remember(stream_id, RESET_BY_PEER)
        self.forget(stream)
        owner.on_reset(unpack_u32(data, start)[0], "reset by peer")


# What acts on each kind of frame, by its number. Functions of the class and not methods of each
# connection, which would be ten objects more, and a reference cycle, for each of them.
_ACTIONS: tuple[Callable[[Connection, int, int, bytes, int, int], None], ...] = tuple(
    getattr(Connection, f"_on_{kind}")
    for kind in (
        *("data", "headers", "priority", "rst_stream", "settings"),
        *("push_promise", "ping", "goaway", "window_update", "continuation"),
    )
)
