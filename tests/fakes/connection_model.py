"""What RFC 9113 says about a frame, by the state of its stream: the rule, apart from the code.

Theory
    `StreamStates` follows a connection from outside, by the frames that went either way, and
    `verdict` gives the outcomes that the RFC allows for the next frame of the peer (5.1, 5.1.1, 6).
    It is written as a table and knows nothing of windows, budgets and header lists; whoever draws
    frames keeps within those, or does not ask it.
"""

from __future__ import annotations

from enum import Enum

from wire_pair import Frame

from tei_manager.wire import frames
from tei_manager.wire.frames import DATA, HEADERS, PRIORITY, RST_STREAM, WINDOW_UPDATE, ErrorCode

OK = "ok"
IGNORED = "ignored"

PROTOCOL, CLOSED = ErrorCode.PROTOCOL_ERROR.name, ErrorCode.STREAM_CLOSED.name
"""Error codes stand for a stream error or a connection error: the RFC lets a stream error be made
one of the connection."""


class State(Enum):
    """A stream as its receiver sees it."""

    IDLE = "idle"
    OPEN = "open"
    ENDED = "half-closed by the peer"
    CLOSED = "closed"
    PEER_RESET = "reset by the peer"
    RESET = "reset by us"


_ON_STREAMS = (DATA, HEADERS, RST_STREAM, WINDOW_UPDATE, PRIORITY)

# What may become of a frame of the peer, by the state of its stream. RFC 9113 5.1.
_TABLE: dict[State, dict[int, set[str]]] = {
    State.IDLE: {
        DATA: {PROTOCOL},
        RST_STREAM: {PROTOCOL},
        WINDOW_UPDATE: {PROTOCOL},
        PRIORITY: {OK},
    },
    State.OPEN: {kind: {OK} for kind in _ON_STREAMS},
    State.ENDED: {
        DATA: {CLOSED},
        HEADERS: {CLOSED},
        RST_STREAM: {OK},
        WINDOW_UPDATE: {OK},
        PRIORITY: {OK},
    },
    State.CLOSED: {
        DATA: {CLOSED},
        HEADERS: {CLOSED},
        RST_STREAM: {IGNORED},
        WINDOW_UPDATE: {IGNORED},
        PRIORITY: {OK},
    },
    State.PEER_RESET: {
        DATA: {CLOSED, IGNORED},
        HEADERS: {CLOSED, IGNORED},
        RST_STREAM: {IGNORED},
        WINDOW_UPDATE: {IGNORED},
        PRIORITY: {OK},
    },
    State.RESET: {kind: {IGNORED} for kind in _ON_STREAMS},
}


class StreamStates:
    """The states of one connection's streams.

    Args:
        client: Whether the side under test is the client, whose streams only it may open.
    """

    def __init__(self, client: bool) -> None:
        self._client = client
        self._states: dict[int, State] = {}
        self._headed: set[int] = set()  # the peer sent a header block
        self._finished: set[int] = set()  # the side under test ended its own

    def state(self, stream_id: int) -> State:
        """Return a stream's state; numbers are used without gaps here."""
        return self._states.get(stream_id, State.IDLE)

    def all_in(self, *states: State) -> list[int]:
        """Return the streams that are in one of these states."""
        return [number for number, state in self._states.items() if state in states]

    def headed(self, stream_id: int) -> bool:
        """Say whether the next block of the peer on this stream would be trailers."""
        return stream_id in self._headed

    def verdict(self, kind: int, stream_id: int, end: bool) -> set[str]:
        """Return what may become of the peer's next frame."""
        state = self.state(stream_id)
        if kind == HEADERS and state is State.IDLE:
            return {PROTOCOL} if self._client or stream_id % 2 == 0 else {OK}
        if state is State.OPEN and kind == DATA and stream_id not in self._headed:
            return {PROTOCOL}  # a response begins with its head (8.1)
        if state is State.OPEN and kind == HEADERS and stream_id in self._headed and not end:
            return {PROTOCOL}  # trailers end the stream (8.1)
        return _TABLE[state][kind]

    def opened(self, stream_id: int) -> None:
        """Note that either side opened a stream."""
        self._states[stream_id] = State.OPEN

    def received(self, kind: int, stream_id: int, end: bool) -> None:
        """Note a frame of the peer that was taken or ignored."""
        if kind == HEADERS:
            self._headed.add(stream_id)
        state = self.state(stream_id)
        known: tuple[State, ...] = (State.OPEN, State.ENDED)
        if self._client:  # C-core ends a call twice, with its reset in between
            known += (State.RESET, State.CLOSED)
        if kind == RST_STREAM and state in known:
            self._states[stream_id] = State.PEER_RESET
        elif state is State.RESET and (end or kind == RST_STREAM):
            self._states[stream_id] = State.CLOSED  # nothing more can be under way
        elif state is State.OPEN and end:
            done = stream_id in self._finished
            self._states[stream_id] = State.CLOSED if done else State.ENDED

    def sent(self, frame: Frame) -> None:
        """Note a frame of the side under test, and hold it against the states.

        It may send nothing on a stream that is idle, nothing but a reset on one that it has ended
        or that is closed.
        """
        number, state = frame.stream_id, self.state(frame.stream_id)
        if not number or frame.kind == frames.CONTINUATION:
            return
        if frame.kind == HEADERS and state is State.IDLE and self._client:
            self.opened(number)
            state = State.OPEN
        assert state is not State.IDLE, f"{frame} on an idle stream"
        if frame.kind in (DATA, HEADERS):
            assert state in (State.OPEN, State.ENDED), f"{frame} on a {state.value} stream"
            assert number not in self._finished, f"{frame} behind its own end"
            if frame.flags & frames.END_STREAM:
                self._finished.add(number)
                self._states[number] = State.CLOSED if state is State.ENDED else state
        elif frame.kind == RST_STREAM:
            assert state is not State.CLOSED, f"{frame} on a closed stream"
            ours = state in (State.OPEN, State.PEER_RESET)
            self._states[number] = State.RESET if ours else State.CLOSED
