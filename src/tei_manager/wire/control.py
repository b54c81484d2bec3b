"""The frames that concern a whole connection: settings, pings, windows, goodbyes (RFC 9113 6).

`Connection` adds what concerns streams. Everything here either changes a number that later
frames are held against, or tells the handler; each kind of frame costs its sender a token.
"""

from __future__ import annotations

from math import inf

from tei_manager.wire import frames
from tei_manager.wire.frames import (
    LARGEST_STREAM_ID,
    LARGEST_WINDOW,
    PREFACE,
    ErrorCode,
    ProtocolError,
    unpack_setting,
    unpack_u32,
)
from tei_manager.wire.handler import ConnectionHandler
from tei_manager.wire.sending import RESET_BY_PEER, SendingHalf
from tei_manager.wire.stream import Stream
from tei_manager.wire.windows import WindowPool

MAX_SETTINGS = 32
"""Parameters in one SETTINGS frame (nghttp2's number; there are six that mean anything)."""

_DRAIN_PING = b"draining"


class ControlHalf(SendingHalf):
    """Settings, pings, windows and goodbyes. The arguments are those of `Connection`."""

    def __init__(
        self,
        handler: ConnectionHandler,
        client: bool,
        dirty: list[ConnectionHandler],
        pool: WindowPool,
        now: float,
    ) -> None:
        super().__init__(handler, client, dirty, pool)
        self.now = now
        self.opened_at = now
        self.peer_max_streams: float = inf
        self.settled = False  # the peer's first SETTINGS came
        self.error: ProtocolError | None = None
        self.last_peer_id = 0
        self.next_id = 1
        self._preface = b"" if client else PREFACE
        self._block: list[bytes] | None = None  # parts of a header block that has not ended
        self.peer_streams = 0  # opened by the peer so far; its numbers may leave gaps
        self._draining = False
        self._refuse_above = LARGEST_STREAM_ID

    def drain(self) -> None:
        """Say goodbye in two steps: no call that is on its way to us is lost (RFC 9113 6.8)."""
        if self._draining or self.going or self.closing:
            return
        self._draining = True
        self.emit(frames.goaway(LARGEST_STREAM_ID, ErrorCode.NO_ERROR) + frames.ping(_DRAIN_PING))

    def fail(self, code: ErrorCode, message: str) -> None:
        """End the connection from our side with a GOAWAY that says why."""
        self._fail(ProtocolError(code, message))

    def _fail(self, error: ProtocolError) -> None:
        # A copy: with its traceback it would hold the frames of `receive`, which hold us.
        self.error = ProtocolError(error.code, error.message)
        self.closing = True
        self.going = True
        last = min(self.last_peer_id, self._refuse_above)  # never above an earlier one
        self.emit(frames.goaway(last, error.code, error.message.encode()[:128]))

    def _break(self, stream: Stream, code: ErrorCode, reason: str) -> None:
        """Reset a stream that the peer broke, and tell its owner."""
        owner = stream.owner
        self.reset(stream, code)
        owner.on_reset(code, reason)  # first, as the budget may end the connection
        self.budget.local_reset(self.now)

    def _on_closed(self, stream_id: int, what: str, size: int, end: bool) -> None:
        """Answer a DATA or HEADERS frame on a stream that is not open to it."""
        left = self.recent_resets.get(stream_id)
        if left is None:
            if self._is_idle(stream_id):
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"{what} on an idle stream")
            raise ProtocolError(ErrorCode.STREAM_CLOSED, f"{what} on a closed stream")
        if left == RESET_BY_PEER:
            self.emit(frames.rst_stream(stream_id, ErrorCode.STREAM_CLOSED))
            self.recent_resets[stream_id] = 0
        if end:
            del self.recent_resets[stream_id]
        elif 0 < size <= left:  # it was on its way when the stream was reset
            self.recent_resets[stream_id] = left - size
        else:
            self.budget.glitch(self.now)

    def _match_preface(self, data: bytes) -> int:
        want = self._preface
        size = min(len(want), len(data))
        if data[:size] != want[:size]:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "not an HTTP/2 preface")
        self._preface = want[size:]
        return size

    def _check_order(self, kind: int, flags: int) -> None:
        if self._block is not None and kind != frames.CONTINUATION:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "header block interrupted")
        if not self.settled and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")

    def _is_idle(self, stream_id: int) -> bool:
        """Whether a stream has not been opened yet, by whoever may open it."""
        if self.client:
            return stream_id % 2 == 0 or stream_id >= self.next_id
        return stream_id % 2 == 0 or stream_id > self.last_peer_id

    def _check_dependency(self, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stop - start < 5:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "no room for the priority fields")
        if unpack_u32(data, start)[0] & LARGEST_STREAM_ID == stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")

    def _unpad(self, data: bytes, start: int, stop: int) -> tuple[int, int]:
        if start == stop or start + 1 + data[start] > stop:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "more padding than frame")
        return start + 1, stop - data[start]

    def _strip(
        self, flags: int, stream_id: int, data: bytes, start: int, stop: int
    ) -> tuple[int, int]:
        """Return where the block of a HEADERS frame is, without padding and priority."""
        if flags & frames.PADDED:
            start, stop = self._unpad(data, start, stop)
        if flags & frames.PRIORITY_FLAG:
            self._check_dependency(stream_id, data, start, stop)
            start += 5
        return start, stop

    def _on_priority(self, _flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id == 0:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if stop - start != 5:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not five octets long")
        self._check_dependency(stream_id, data, start, stop)
        self.budget.priority(self.now)

    def _on_push_promise(
        self, _flags: int, _stream_id: int, _data: bytes, _start: int, _stop: int
    ) -> None:
        raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which we do not allow")

    def _on_settings(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        size = stop - start
        if size % 6 or (size and flags & frames.ACK):
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS of a wrong length")
        if flags & frames.ACK:
            self.budget.glitch(self.now)
            return
        if size > MAX_SETTINGS * 6:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "too many settings")
        self.budget.settings(self.now)
        self.emit(frames.SETTINGS_ACK)  # first: DATA that a larger window frees comes behind it
        window = self.peer_initial_window
        for key, value in unpack_setting(data[start:stop]):
            if key != frames.INITIAL_WINDOW_SIZE:
                self._apply_setting(key, value)
            elif value <= LARGEST_WINDOW:
                window = value  # only the last can be seen outside, and each costs a look at all
            else:
                message = f"an initial window of {value}"
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, message)
        if window != self.peer_initial_window:
            self._resize_windows(window)
        self.settled = True
        self.handler.on_settings()

    def _apply_setting(self, key: int, value: int) -> None:
        if key == frames.MAX_FRAME_SIZE:
            if not frames.DEFAULT_MAX_FRAME <= value <= frames.LARGEST_MAX_FRAME:
                raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"a frame size of {value}")
            # We never need more: what comes in is in frames of the default size.
            self.peer_max_frame = frames.DEFAULT_MAX_FRAME
        elif key == frames.MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
        elif key == frames.HEADER_TABLE_SIZE:
            self.peer_table_size = value
            self.table_size_changed(value)
        elif key == frames.ENABLE_PUSH and (value > 1 or (value and self.client)):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}")

    def _resize_windows(self, value: int) -> None:
        """Apply a new initial window to every stream; a window may become negative by it."""
        change = value - self.peer_initial_window
        self.peer_initial_window = value
        for stream in list(self.streams.values()):
            stream.send_window += change
            if stream.send_window > LARGEST_WINDOW:
                raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "a stream window too large")
            if change > 0:
                self.window_grew(stream)

    def _on_ping(self, flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if stop - start != 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "PING is not eight octets long")
        payload = data[start:stop]
        if not flags & frames.ACK:
            self.budget.ping(self.now, self.data_frames)
            self.emit(frames.ping(payload, ack=True))
        elif self.client:
            self.handler.on_ping_ack(payload)
        elif self._draining and payload == _DRAIN_PING:
            self._finish_drain()
        else:
            self.budget.glitch(self.now)

    def _finish_drain(self) -> None:
        self._draining = False
        self._refuse_above = self.last_peer_id
        self.going = True
        self.emit(frames.goaway(self.last_peer_id, ErrorCode.NO_ERROR))
        self.closing = self.closing or not self.streams

    def _on_goaway(self, _flags: int, stream_id: int, data: bytes, start: int, stop: int) -> None:
        if stream_id:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if stop - start < 8:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY is too short")
        self.budget.glitch(self.now)
        last, code = unpack_u32(data, start)[0], unpack_u32(data, start + 4)[0]
        self.going = True
        self.handler.on_goaway(last & LARGEST_STREAM_ID, code, data[start + 8 : stop])
        if not self.streams:
            self.closing = True
            self.emit(b"")

    def _on_window_update(
        self, _flags: int, stream_id: int, data: bytes, start: int, stop: int
    ) -> None:
        if stop - start != 4:
            raise ProtocolError(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four octets long")
        octets = unpack_u32(data, start)[0] & LARGEST_WINDOW
        if not octets:
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        self.budget.window_update(self.peer_streams + self.next_id // 2, self.data_frames)
        if not stream_id:
            self._grow_connection(octets)
            return
        stream = self.streams.get(stream_id)
        if stream is not None:
            self._grow_stream(stream, octets)
        elif self._is_idle(stream_id):
            raise ProtocolError(ErrorCode.PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")

    def _grow_connection(self, octets: int) -> None:
        self.send_window += octets
        if self.send_window > LARGEST_WINDOW:
            raise ProtocolError(ErrorCode.FLOW_CONTROL_ERROR, "the connection window too large")
        self.largest_send_window = max(self.largest_send_window, self.send_window)
        self.window_grew(None)

    def _grow_stream(self, stream: Stream, octets: int) -> None:
        stream.send_window += octets
        stream.outstanding = max(0, stream.outstanding - octets)
        if stream.send_window > LARGEST_WINDOW:
            self._break(stream, ErrorCode.FLOW_CONTROL_ERROR, "a stream window too large")
        else:
            self.window_grew(stream)
