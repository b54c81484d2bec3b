"""A worker, its clients and its instances in one `VirtualLoop`, stepped by hand.

The clients and the instances are hyper-h2, so the protocol of both sides is judged by a library
that shares no code with ours: it raises where ours breaks the rules.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from typing import Any, Protocol
from unittest.mock import patch

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hpack import Encoder
from memory_loop import VirtualLoop, Wire
from multiplexer import table

from tei_manager.mux import worker as worker_module
from tei_manager.mux.listener import Client
from tei_manager.mux.switch import Options
from tei_manager.mux.worker import Worker
from tei_manager.routes import Route
from tei_manager.wire import frames, hpack

ANSWER = [(":status", "200"), ("content-type", "application/grpc")]
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "test"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]
"""What every call has beside its ``:path``."""

CLOCKS = ("endpoint", "switch", "deadlines")


class PlainEncoder(Encoder):
    """Writes header blocks as TEI does for us, who asked for no table: as literals."""

    def encode(self, headers: Iterable[Any], huffman: bool = True) -> bytes:
        """Encode a list, in which hyper-h2 has put octets already."""
        ok = (b":status", b"200")
        plain = [(bytes(name), bytes(value)) for name, value in headers]
        return b"".join(hpack.STATUS_200 if f == ok else hpack.literal(*f) for f in plain)


class PeerStream:
    """One call as a peer saw it. ``ended`` is END_STREAM, ``reset`` the code of RST_STREAM."""

    def __init__(self, stream_id: int) -> None:
        self.id = stream_id
        self.heads: list[dict[str, str]] = []
        self.body = bytearray()
        self.ended = self.answered = False
        self.reset: int | None = None
        self.sending: list[bytes] = []  # waits for windows
        self.then: list[tuple[str, str]] | bool | None = None  # trailers, or END_STREAM, behind it

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.ended or self.reset is not None


class PeerWire(Protocol):
    """What a peer needs of a wire; `Wire` has it."""

    lost: bool

    def deliver(self, data: bytes) -> None:
        """Give octets to the side under test."""

    def take(self, most: int = ...) -> bytes:
        """Take what it wrote."""

    def cut(self, error: Exception | None = None) -> None:
        """End the connection."""


class H2Peer:
    """A client or an instance at the other end of a wire, on hyper-h2.

    While it ``reads`` it takes what was written, and while it ``credits`` gives credit for that.
    `pump` moves octets. It ends a stream with its last DATA, or if not ``joins`` with an empty one
    behind; where it is ``plain``, header blocks are literals, as TEI writes them for us.
    """

    def __init__(
        self, wire: PeerWire, client: bool, *, plain: bool = False, joins: bool = False
    ) -> None:
        self.wire = wire
        config = h2.config.H2Configuration(client_side=client, header_encoding="utf-8")
        self.h2 = h2.connection.H2Connection(config)
        if plain:
            self.h2.encoder = PlainEncoder()
        self.joins = joins
        self._owed: list[tuple[int, int]] = []  # (octets, stream) that were not credited yet
        self.streams: dict[int, PeerStream] = {}
        self.reads = self.credits = True
        self.goodbyes: list[tuple[int, int]] = []  # (last stream id, code) of each GOAWAY
        self.last = inf  # stream that our own GOAWAYs said we look at
        self.closed = False

    def start(self, **values: int) -> None:
        """Say hello, with settings of its own by their names in lower case."""
        for name, value in values.items():
            code = h2.settings.SettingCodes[name.upper()]
            # Not as an update: hyper-h2 would apply it at the ACK of its first SETTINGS.
            self.h2.local_settings[code] = value
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()

    def pump(self) -> bool:
        """Carry octets both ways once; say whether there were any."""
        if self.credits:
            self._pay()
        self._send_waiting()
        octets = self.h2.data_to_send()
        if octets:
            self.wire.deliver(octets)
        taken = self.wire.take() if self.reads else b""
        if taken and not self.closed:
            for event in self.h2.receive_data(self._without_goodbyes(taken)):
                self._note(event)
        self.closed = self.closed or self.wire.lost
        return bool(octets or taken)

    def call(self, path: str, *metadata: tuple[str, str], end: bool = False) -> PeerStream:
        """Start a call; ``end`` if nothing follows."""
        headers = [*REQUEST[:3], (":path", path), *REQUEST[3:], *metadata]
        stream = PeerStream(self.h2.get_next_available_stream_id())
        self.streams[stream.id] = stream
        self.h2.send_headers(stream.id, headers, end_stream=end)
        return stream

    def send(self, stream: PeerStream, data: bytes, then: Any = None) -> None:
        """Send octets, then END_STREAM (True) or trailers, as windows allow."""
        if data:
            stream.sending.append(data)
        stream.then = then

    def answer(self, stream: PeerStream) -> None:
        """Begin to answer."""
        stream.answered = True
        self.h2.send_headers(stream.id, ANSWER)

    def reset(self, stream: PeerStream, code: int) -> None:
        """End a stream."""
        stream.sending, stream.then = [], None
        self.h2.reset_stream(stream.id, code)
        stream.reset = code

    def limit(self, streams: int) -> None:
        """Allow so many calls at a time from now on."""
        code = h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS
        self.h2.update_settings({code: streams})

    def window(self, octets: int) -> None:
        """Let each stream of the other side send so much before it gets credit."""
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: octets})

    @property
    def begun(self) -> list[int]:
        """Streams that were answered in part or whole."""
        return [n for n, stream in self.streams.items() if stream.answered]

    def goaway(self, last_stream_id: int) -> None:
        """Say that streams above a number are not looked at; those below go on."""
        self.pump()
        self.last = min(self.last, last_stream_id)
        self.wire.deliver(frames.goaway(last_stream_id, frames.ErrorCode.NO_ERROR))

    def _send_waiting(self) -> None:
        for stream in list(self.streams.values()):
            if stream.reset is None and (stream.sending or stream.then is not None):
                with suppress(h2.exceptions.StreamClosedError):
                    self._send_stream(stream)

    def _send_stream(self, stream: PeerStream) -> None:
        while stream.sending:
            room = min(self.h2.local_flow_control_window(stream.id), 16_384)
            if room <= 0:
                return
            data = stream.sending.pop(0)
            if data[room:]:
                stream.sending.insert(0, data[room:])
            last = self.joins and not stream.sending and stream.then is True
            self.h2.send_data(stream.id, data[:room], end_stream=last)
            if last:
                stream.then = None
        if stream.then is True:
            self.h2.end_stream(stream.id)
        elif stream.then:
            self.h2.send_headers(stream.id, stream.then, end_stream=True)
        stream.then = None

    def _note(self, event: h2.events.Event) -> None:
        number = getattr(event, "stream_id", None) or 0
        if isinstance(event, h2.events.RequestReceived):
            self.streams[number] = PeerStream(number)
        if isinstance(event, h2.events.ConnectionTerminated):
            self.goodbyes.append((event.last_stream_id or 0, int(event.error_code or 0)))
            self.closed = True
        stream = self.streams.get(number)
        if stream is None:
            return
        if headers := getattr(event, "headers", None):
            assert not stream.over, "headers behind the end"
            stream.heads.append(dict(headers))
        elif isinstance(event, h2.events.DataReceived):
            assert not stream.over, "data behind the end"
            stream.body += event.data
            self._owed.append((event.flow_controlled_length or 0, number))
        elif isinstance(event, h2.events.StreamEnded):
            assert not stream.over, "two ends"
            stream.ended = True
        elif isinstance(event, h2.events.StreamReset):
            assert stream.reset is None, "reset twice"
            stream.reset = int(event.error_code)
            stream.sending, stream.then = [], None

    def _pay(self) -> None:
        owed, self._owed = self._owed, []
        for octets, number in owed:
            with suppress(h2.exceptions.StreamClosedError):
                self.h2.acknowledge_received_data(octets, number)

    def _without_goodbyes(self, octets: bytes) -> bytes:
        """Take GOAWAY with NO_ERROR out of what comes: hyper-h2 treats each as the very end."""
        kept, pos = bytearray(), 0
        while pos < len(octets):
            size = 9 + int.from_bytes(octets[pos : pos + 3], "big")
            frame = octets[pos : pos + size]
            if frame[3] == 7 and frame[13:17] == bytes(4):
                self.goodbyes.append((int.from_bytes(frame[9:13], "big"), 0))
            else:
                kept += frame
            pos += size
        return bytes(kept)


class MemorySwitch:
    """A worker in a virtual loop, with whoever connected to it and whom it connected to.

    ``instances`` says by port what an instance does with a new wire; a port without one refuses.
    """

    def __init__(self, loop: VirtualLoop, worker: Worker) -> None:
        self.loop, self.worker, self.switch = loop, worker, worker.switch
        self.instances: dict[int, Callable[[H2Peer], None]] = {}
        self.clients: list[H2Peer] = []
        self.backends: list[tuple[int, H2Peer]] = []
        loop.dial = self._dial
        loop.accept = lambda: Client(self.switch, lambda: None)

    def _dial(self, _host: str, port: int, wire: Wire) -> None:
        greet = self.instances.get(port)
        if greet is None:
            raise ConnectionRefusedError
        peer = H2Peer(wire, client=False, plain=True)
        self.backends.append((port, peer))
        greet(peer)

    def connect(self, *, plain: bool = False, joins: bool = False) -> H2Peer:
        """Be a client; see `H2Peer` for the manners that it may have."""
        peer = H2Peer(self.loop.connect(), client=True, plain=plain, joins=joins)
        self.clients.append(peer)
        peer.start()
        return peer

    def settle(self) -> None:
        """Carry octets and turn the loop until nothing moves."""
        moved = True
        while moved:
            self.loop.settle()
            peers = [*self.clients, *(peer for _, peer in self.backends)]
            moved = sum(peer.pump() for peer in peers) > 0  # each of them, not the first only
        self.loop.settle()

    def advance(self, seconds: float) -> None:
        """Let time pass in steps that peers can answer in."""
        while seconds > 0:
            step = min(seconds, 0.5)
            self.loop.advance(step)
            self.settle()
            seconds -= step

    def leftovers(self) -> dict[str, int]:
        """What calls hold, as far as it is not zero."""
        from multiplexer import Multiplexer

        return Multiplexer(self.worker, 0).leftovers()


@contextmanager
def memory_switch(*routes: Route | tuple[str, int], **options: Any) -> Iterator[MemorySwitch]:
    """A worker whose clock and network are in memory; everything is closed at the end."""
    loop = VirtualLoop()
    with ExitStack() as stack:
        for module in CLOCKS:
            stack.enter_context(patch(f"tei_manager.mux.{module}.monotonic", loop.time))
        stack.enter_context(patch.object(worker_module, "_settle_memory", lambda: None))
        stack.callback(loop.close)

        async def make() -> Worker:
            return Worker(Options(**options))

        memory = MemorySwitch(loop, loop.run_until_complete(make()))
        memory.worker.apply(table(*routes))
        stack.callback(_close, memory)
        yield memory


def _close(memory: MemorySwitch) -> None:
    memory.switch.close()
    memory.loop.settle()


def serve(memory: MemorySwitch) -> Any:
    """Run the worker's own `serve` in the loop, so that signals and draining are real."""
    listening = socket.socket()
    task = memory.loop.create_task(memory.worker.serve(listening))
    memory.loop.settle()
    return task
