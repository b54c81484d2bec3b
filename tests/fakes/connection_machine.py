"""What the machines M1 and M2 have in common: one of our connections between three judges.

Theory
    The peer is hyper-h2, which sends what is legal and raises where our side breaks the protocol.
    Frames that it would never send go in behind its back, one at a time, and `StreamStates` knows
    what may become of each. And the side's owners check that nothing comes behind an end. What ends
    a connection comes only after `EARLY` steps, or no run would come far. Once plain noise was sent
    nobody knows any more what is legal, so nothing but noise follows.
"""

from __future__ import annotations

from typing import Any

from connection_model import IGNORED, OK, State, StreamStates
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from memory_switch import H2Peer
from wire_pair import OK_HEAD, REQUEST, Frame, Side, block, parse

from tei_manager.wire import frames
from tei_manager.wire.connection import BLOCK_SECONDS, MAX_BLOCK
from tei_manager.wire.frames import DATA, HEADERS, PRIORITY, RST_STREAM, WINDOW_UPDATE, ErrorCode
from tei_manager.wire.sending import RECENT_RESETS
from tei_manager.wire.windows import CONNECTION_WINDOW, WindowPool

MAX_STREAMS = 8
EARLY = 25
WINDOWS = st.sampled_from([0, 10, 65_535])
SIZES = st.sampled_from([0, 1, 100, 16_384, 40_000])
PAYLOADS = {
    DATA: b"stray",
    HEADERS: b"",
    RST_STREAM: frames.pack_u32(ErrorCode.CANCEL),
    WINDOW_UPDATE: frames.pack_u32(7),
    PRIORITY: bytes(4) + b"\x0f",
}
LEGAL_ODDITIES = [
    frames.frame(0x42, 0xFF, 3, b"unknown"),
    frames.frame(frames.SETTINGS, frames.ACK, 0),
    frames.frame(frames.PING, frames.ACK, 0, b"unasked!"),
    frames.frame(PRIORITY, 0, 1, PAYLOADS[PRIORITY]),
    frames.settings({frames.HEADER_TABLE_SIZE: 0}),
    frames.settings({0x99: 7}),
]
BROKEN: list[tuple[bytes, ErrorCode]] = [
    (frames.frame(frames.PING, 0, 0, b"short"), ErrorCode.FRAME_SIZE_ERROR),
    (frames.frame(frames.PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    (frames.frame(frames.SETTINGS, 0, 0, b"12345"), ErrorCode.FRAME_SIZE_ERROR),
    (frames.frame(frames.SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
    (frames.frame(frames.CONTINUATION, 4, 1), ErrorCode.PROTOCOL_ERROR),
    (frames.frame(frames.PUSH_PROMISE, 4, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
    (frames.window_update(0, 0), ErrorCode.PROTOCOL_ERROR),
    (frames.window_update(0, (1 << 31) - 1), ErrorCode.FLOW_CONTROL_ERROR),
    (frames.settings({frames.MAX_FRAME_SIZE: 1}), ErrorCode.PROTOCOL_ERROR),
    (frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 31}), ErrorCode.FLOW_CONTROL_ERROR),
    (frames.frame(DATA, 0, 1, bytes(16_385)), ErrorCode.FRAME_SIZE_ERROR),
    (frames.frame(DATA, frames.PADDED, 0, b""), ErrorCode.PROTOCOL_ERROR),
]


class SideWire:
    """Joins a side to an `H2Peer`; every frame that the side writes is kept for the judges."""

    def __init__(self, side: Side, client: bool) -> None:
        self.side, self.now = side, 0.0
        self.states = StreamStates(client)
        self.sent: list[Frame] = []
        self.lost = False

    def deliver(self, data: bytes) -> None:
        """Give octets to the side, unless it has had enough."""
        self.side.feed(data, self.now)

    def cut(self, error: Exception | None = None) -> None:
        """Say that the peer is gone; a side has no transport that could tell it."""
        self.lost = True

    def take(self, most: int = 0) -> bytes:
        """Take what the side wrote."""
        octets = self.side.take()
        for frame in parse(octets.removeprefix(frames.PREFACE)):
            self.states.sent(frame)
            self.sent.append(frame)
        return octets


class ConnectionMachine(RuleBasedStateMachine):
    """One side and its peer; subclasses say what the role adds."""

    client = False

    def start(self, side: Side, window: int) -> None:
        """Say hello both ways; ``window`` is what the peer lets each stream send at first."""
        self.side, self.connection = side, side.connection
        self.wire = SideWire(side, self.client)
        self.states = self.wire.states
        self.peer = H2Peer(self.wire, client=not self.client)
        self.noisy = False
        self.steps = 0
        self.peer.start(max_concurrent_streams=MAX_STREAMS, initial_window_size=window)
        self.exchange()
        assert self.connection.settled

    def exchange(self) -> None:
        """Carry octets until neither side has any."""
        while self.peer.pump():
            pass

    @property
    def late(self) -> bool:
        """Whether the run is long enough to be ended."""
        return self.steps > EARLY

    @property
    def alive(self) -> bool:
        """Whether anything but noise may still be sent."""
        return not (self.connection.closing or self.noisy or self.peer.closed)

    def legal(self, kind: int, stream_id: int, end: bool) -> None:
        """Note a frame that the peer sent through its library, and carry it over."""
        if kind == HEADERS and self.states.state(stream_id) is State.IDLE:
            self.states.opened(stream_id)
        self.states.received(kind, stream_id, end)
        self.exchange()
        assert self.connection.error is None, self.connection.error

    def stray(self, kind: int, stream_id: int, end: bool) -> None:
        """Send a frame that the library would not, and hold what becomes of it to the rule."""
        allowed = self.states.verdict(kind, stream_id, end)
        ends = end and kind in (DATA, HEADERS)
        payload = PAYLOADS[kind] or self._fields(stream_id)
        flags = frames.END_HEADERS * (kind == HEADERS) | ends
        before = len(self.wire.sent)
        self.wire.deliver(frames.frame(kind, flags, stream_id, payload))
        self.exchange()
        if IGNORED in allowed:
            self.states.received(kind, stream_id, ends)
        found = self._outcome(stream_id, self.wire.sent[before:])
        names = "/".join(sorted(allowed))
        assert found & allowed, f"{names} for {kind} on {stream_id}, not {found}"

    def _fields(self, stream_id: int) -> bytes:
        """Return a block that is sound where it stands, so that the state alone can be wrong."""
        if self.states.headed(stream_id):
            return block((b"x-trailer", b"1"))
        return OK_HEAD if self.client else block(*REQUEST)

    def _outcome(self, stream_id: int, sent: list[Frame]) -> set[str]:
        if self.connection.error is not None:
            return {self.connection.error.code.name}
        resets = [f for f in sent if f.kind == RST_STREAM and f.stream_id == stream_id]
        if resets and resets[0].payload[3]:
            return {ErrorCode(resets[0].payload[3]).name}
        return {OK, IGNORED}

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), kind=st.sampled_from(sorted(PAYLOADS)), end=st.booleans())
    def send_what_no_library_sends(self, data: Any, kind: int, end: bool) -> None:
        known = self.states.all_in(*State)
        fatal = [*known, 2, max(known, default=1) + 20]
        mild = self.states.all_in(State.OPEN, State.RESET, State.PEER_RESET) or fatal
        number = data.draw(st.sampled_from(fatal if self.late else mild), "stream")
        if self.states.verdict(kind, number, end) != {OK}:
            self.stray(kind, number, end)

    @precondition(lambda self: self.alive)
    @rule(frame=st.sampled_from(LEGAL_ODDITIES))
    def send_a_legal_oddity(self, frame: bytes) -> None:
        self.wire.deliver(frame)
        self.side.take()  # an acknowledgement that the peer's library did not ask for
        assert self.connection.error is None

    @precondition(lambda self: self.alive and self.late)
    @rule(row=st.sampled_from(BROKEN))
    def break_the_connection(self, row: tuple[bytes, ErrorCode]) -> None:
        self.wire.deliver(row[0])
        assert self.connection.error is not None
        assert self.connection.error.code is row[1]
        assert self.connection.closing

    @precondition(lambda self: self.late)
    @rule(octets=st.binary(max_size=40))
    def send_noise(self, octets: bytes) -> None:
        self.noisy = True
        self.side.feed(octets, self.wire.now)
        self.side.take()

    @precondition(lambda self: self.alive)
    @rule(window=st.sampled_from([0, 10, 65_535, 200_000]))
    def resize_windows(self, window: int) -> None:
        self.peer.window(window)
        self.exchange()
        assert self.connection.error is None

    @precondition(lambda self: self.alive)
    @rule()
    def ping(self) -> None:
        self.peer.h2.ping(b"question")
        self.exchange()
        assert self.wire.sent[-1].payload == b"question"

    @rule(seconds=st.sampled_from([0.001, 1.0, BLOCK_SECONDS + 1]))
    def wait(self, seconds: float) -> None:
        self.wire.now += seconds
        slow = self.connection.next_deadline() <= self.wire.now
        was = self.connection.closing
        self.connection.expire(self.wire.now)
        assert self.connection.closing == (was or slow)

    @invariant()
    def a_step_is_done(self) -> None:
        self.steps += 1

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        connection, pool = self.connection, self.side.pool
        streams = connection.streams.values()
        assert len(connection._rest) < 9 + frames.DEFAULT_MAX_FRAME
        assert sum(map(len, connection._block or ())) <= MAX_BLOCK
        assert len(connection.recent_resets) <= RECENT_RESETS
        assert len(streams) <= MAX_STREAMS
        assert 0 < connection.recv_window <= CONNECTION_WINDOW
        assert pool.queued == sum(stream.queued for stream in streams)
        assert pool.free + sum(stream.borrowed for stream in streams) == WindowPool().free
        assert set(connection.ready) | set(connection.held) <= set(streams)

    @invariant()
    def streams_are_those_that_are_open(self) -> None:
        if self.alive:
            open_ones = set(self.states.all_in(State.OPEN, State.ENDED))
            assert set(self.connection.streams) == open_ones
