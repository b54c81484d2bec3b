"""Answers calls that go nowhere: at once at first, then no faster than anybody can need it.

Theory
    A call for an instance or a method that there is not is legal, costs us as much as a good one,
    and brings nobody anything. A client that makes many is slowed down by its own answers: they
    are *held back*, longer the more of them there are. So a loop that asks for a stopped instance
    goes on at the bucket's rate for as long as it likes, and other calls of its connection do not
    notice. A client that does not wait for answers comes to its limit of streams, since a refused
    call keeps a slot until it is answered, even if it is reset before; streams above that limit
    end the connection, and so does a debt that only grows (`wire.limits`).

Known flaws
    A status that is held back is as old as that: an instance may be there again by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tei_manager.wire.connection import Connection
from tei_manager.wire.frames import ErrorCode
from tei_manager.wire.stream import Stream

if TYPE_CHECKING:
    from tei_manager.mux.switch import Switch

MAX_HOLD_SECONDS = 5.0
"""How long an answer is held back at most: a client with a thousand such calls at a time makes two
hundred a second, and twenty such clients take a quarter of our time."""

MAX_OWED = 5000
"""Calls beyond the bucket after which the connection ends. The client above, who keeps to all other
limits, comes there in well over half a minute; one who waits for each answer never does."""


class _Held:
    """A refusal that waits, with a slot of its own.

    Args:
        switch: What all connections of the worker share.
        connection: The client's connection.
        stream: The call's stream on it.
        head: The header block of the answer.
        body: What follows it; None if the block is all.
    """

    __slots__ = ("_answer", "_connection", "_stream", "_switch")

    def __init__(
        self,
        switch: Switch,
        connection: Connection,
        stream: Stream,
        head: bytes,
        body: bytes | None,
    ) -> None:
        self._switch, self._connection, self._stream = switch, connection, stream
        self._answer = head, body
        connection.slots += 1

    def expire(self) -> None:
        """Answer, unless the client has gone or reset the stream."""
        self._connection.release_slot()
        if self._stream.id in self._connection.streams:
            _send(self._connection, self._stream, *self._answer)
            self._switch.flush_soon()


def refuse(
    switch: Switch, connection: Connection, stream: Stream, head: bytes, body: bytes | None = None
) -> None:
    """Answer a call that never came to an instance, and end its stream, now or later.

    Args:
        switch: What all connections of the worker share.
        connection: The client's connection; ended if it owes too much.
        stream: The call's stream on it. Its owner has turned away.
        head: The header block of the answer.
        body: What follows it; None if the block is all.

    Ownership:
        The caller releases the call's slot; an answer that is held back has another one.
    """
    seconds, owed = connection.budget.futile(switch.now)
    if owed > MAX_OWED and not connection.closing:
        connection.fail(ErrorCode.ENHANCE_YOUR_CALM, "too many calls that go nowhere")
    elif seconds:
        switch.counters.reject("held_back")
        held = _Held(switch, connection, stream, head, body)
        switch.deadlines.add(held, switch.now + min(seconds, MAX_HOLD_SECONDS))
    else:
        _send(connection, stream, head, body)


def _send(connection: Connection, stream: Stream, head: bytes, body: bytes | None) -> None:
    connection.send_headers(stream, head, body is None)
    if body is not None:
        connection.send_data(stream, body, True)
