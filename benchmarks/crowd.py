"""Many connections at once, each a closed loop, served by one thread.

One connection is served by one worker of a proxy; it takes several to see more than one at work.
"""

from __future__ import annotations

from contextlib import ExitStack
from selectors import EVENT_READ, DefaultSelector
from time import perf_counter_ns

from benchmarks.answers import answer
from benchmarks.calls import SMALL_ANSWER, TEXT, UNARY, embed_message
from benchmarks.client import WAIT_SECONDS, Client, LoadError
from benchmarks.load import Meter, Sample
from benchmarks.peers.peer import Peer


class _Caller:
    """One connection with a fixed number of calls under way.

    Args:
        client: The connection.
        streams: How many calls.
    """

    def __init__(self, client: Client, streams: int) -> None:
        self.client, self._streams = client, streams
        self._message = embed_message(TEXT + SMALL_ANSWER)
        self._encoder = client.encoder(UNARY, self._message)

    def fill(self, last: int) -> None:
        """Begin calls until enough are under way, or ``last`` have begun in all."""
        client, frames = self.client, []
        fresh = min(last - len(client.begun), self._streams - client.under_way)
        for _ in range(fresh):
            client.begin(perf_counter_ns())
            frames.append(self._encoder.unary())
        if frames:
            client.send(b"".join(frames), fresh * len(self._message))


def crowd(peer: Peer, calls: int, connections: int, streams: int = 1) -> Sample:
    """Make ``calls`` unary calls on so many connections, ``streams`` under way on each."""
    each, warm = max(1, calls // connections), max(1, calls // connections // 5)
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(peer)) for _ in range(connections)]
        callers = [_Caller(client, streams) for client in clients]
        _closed(callers, warm)
        with Meter(peer, *clients) as meter:
            _closed(callers, warm + each)
        for client in clients:
            client.verify(warm + each, len(answer(SMALL_ANSWER)))
    return meter.sample(each * connections)


def _closed(callers: list[_Caller], last: int) -> None:
    """Go on until each connection has made ``last`` calls in all."""
    with DefaultSelector() as selector:
        for caller in callers:
            selector.register(caller.client.socket, EVENT_READ, caller)
            caller.fill(last)
        busy = len(callers)
        while busy:
            ready = selector.select(WAIT_SECONDS)
            if not ready:
                raise LoadError(f"nothing came for {WAIT_SECONDS} seconds")
            for key, _ in ready:
                caller = key.data
                caller.client.receive()
                caller.fill(last)
                if caller.client.done == last:
                    selector.unregister(caller.client.socket)
                    busy -= 1
