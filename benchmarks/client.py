"""One HTTP/2 connection of the load: sends calls, times them, and proves that each was answered.

While the clock runs, answers are read by frame headers alone: the octets of each call's messages
are counted, and its header blocks are laid aside. `Client.verify` decodes those afterwards, so that
a proxy may use its dynamic table as it does towards any client, and a call that failed cannot pass
for a fast one. Whatever else ends a call or the connection raises at once.
"""

from __future__ import annotations

import socket
import ssl
import struct
from contextlib import suppress
from time import perf_counter_ns

from benchmarks.calls import CallEncoder
from benchmarks.frames import FrameReader
from benchmarks.peers.peer import Peer
from tei_manager.wire import frames
from tei_manager.wire.frames import DATA, DEFAULT_WINDOW, END_HEADERS, END_STREAM, HEADERS
from tei_manager.wire.hpack import DEFAULT_TABLE_SIZE, Decoder

READ_SIZE = 1 << 18
WAIT_SECONDS = 20
"""Silence of the proxy after which the run is given up."""

CREDIT = 1 << 30
"""Octets received after which the connection window is filled up; it begins twice as large."""

_HELLO = (
    frames.PREFACE
    + frames.settings({frames.ENABLE_PUSH: 0, frames.INITIAL_WINDOW_SIZE: frames.LARGEST_WINDOW})
    + frames.window_update(0, frames.LARGEST_WINDOW - DEFAULT_WINDOW)
)
_UNEXPECTED = 0xFF & ~(END_STREAM | END_HEADERS)  # padding and priority: no proxy here sends them


class LoadError(Exception):
    """A call or a connection of the load failed: there is no figure."""


def _connected(peer: Peer) -> socket.socket:
    if peer.unix is not None:
        local = socket.socket(socket.AF_UNIX)
        local.connect(str(peer.unix))
        return local
    connection = socket.create_connection(("127.0.0.1", peer.port), WAIT_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if peer.tls is None:
        return connection
    try:
        return peer.tls.client().wrap_socket(connection, server_hostname="127.0.0.1")
    except OSError as error:
        connection.close()
        raise LoadError(f"no TLS with {peer.name}: {error}") from None


class Client:
    """A connection to a proxy, open and with its SETTINGS known.

    Args:
        peer: The proxy, and the way in.

    Raises:
        LoadError: The proxy does not speak HTTP/2 as the load needs it.

    Ownership: `close` ends the connection; as a context manager it does so itself.
    """

    def __init__(self, peer: Peer) -> None:
        self._peer, self.socket = peer, _connected(peer)
        self.socket.settimeout(None)  # the kernel keeps the time, without a system call for it
        wait = struct.pack("ll", WAIT_SECONDS, 0)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, wait)
        self.begun: list[int] = []
        """When each call began or should have, in ns of the performance counter."""
        self.took: list[int] = []
        """How long each call took, in ns, in the order of their ends."""
        self.octets: list[int] = []
        """What has come of each call's answers, in octets with their prefixes."""
        self._window = DEFAULT_WINDOW
        self._stream_window = DEFAULT_WINDOW
        self._windows: dict[int, int] = {}
        self._reader = FrameReader()
        self._blocks: list[tuple[bool, bytes]] = []
        self._credit = 0
        self._ready = False
        try:
            self._greet()
        except LoadError:
            self.close()
            raise

    def _greet(self) -> None:
        self._write(_HELLO)
        while not self._ready:
            self.receive()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        with suppress(OSError):
            self.socket.close()

    @property
    def done(self) -> int:
        """How many calls have ended."""
        return len(self.took)

    @property
    def under_way(self) -> int:
        """How many calls have begun and not ended."""
        return len(self.begun) - len(self.took)

    def encoder(self, method: str, *messages: bytes) -> CallEncoder:
        """Return what writes the calls of this connection; `CallEncoder` tells the arguments."""
        peer = self._peer
        return CallEncoder(method, *messages, service=peer.service, metadata=peer.metadata)

    def begin(self, when: int) -> int:
        """Count a call that begins, or should have begun, at ``when``; returns its stream id."""
        self.begun.append(when)
        self.octets.append(0)
        return 2 * len(self.begun) - 1

    def send(self, data: bytes, flow: int) -> None:
        """Send frames, of which ``flow`` octets are payload of DATA, once the window allows it."""
        while self._window < flow:
            self.receive()
        self._window -= flow
        self._write(data)

    def allowance(self, stream_id: int) -> int:
        """Return how many octets of DATA may be sent on a stream now."""
        return min(self._window, self._windows.get(stream_id, 0) + self._stream_window)

    def spend(self, stream_id: int, size: int) -> None:
        """Count octets of DATA that are sent on a stream, whose `allowance` was asked for."""
        self._windows[stream_id] = self._windows.get(stream_id, 0) - size

    def receive(self) -> None:
        """Wait for octets, and act on them.

        Raises:
            LoadError: Anything but answers came.
        """
        data = self._read()
        ended: list[int] = []
        for kind, flags, stream_id, payload in self._reader.feed(data):
            if kind == DATA:
                if flags:
                    raise LoadError(f"DATA with flags {flags} ended an answer without a status")
                self.octets[stream_id >> 1] += len(payload)
            elif kind == HEADERS:
                if flags & END_STREAM:
                    ended.append(stream_id >> 1)
                self._lay_aside(flags, payload)
            else:
                self._control(kind, flags, stream_id, payload)
        if ended:
            now, begun = perf_counter_ns(), self.begun
            self.took.extend([now - begun[call] for call in ended])

    def _write(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise LoadError(f"the proxy takes no more octets: {error}") from None

    def _read(self) -> bytes:
        try:
            data = self.socket.recv(READ_SIZE)
            while isinstance(self.socket, ssl.SSLSocket) and self.socket.pending():
                data += self.socket.recv(READ_SIZE)  # a record at a time, which select does not see
        except (BlockingIOError, ssl.SSLWantReadError):
            raise LoadError(f"nothing came for {WAIT_SECONDS} seconds") from None
        except OSError as error:
            raise LoadError(f"the connection is lost: {error}") from None
        if not data:
            raise LoadError("the proxy closed the connection")
        self._credit += len(data)
        if self._credit >= CREDIT:
            self._write(frames.window_update(0, self._credit))
            self._credit = 0
        return data

    def _lay_aside(self, flags: int, block: bytes) -> None:
        if flags & _UNEXPECTED or not flags & END_HEADERS:
            raise LoadError(f"HEADERS with flags {flags} are not understood")
        self._blocks.append((flags & END_STREAM != 0, block))

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._widen(stream_id, frames.unpack_u32(payload)[0])
        elif kind == frames.SETTINGS:
            if not flags & frames.ACK:
                self._on_settings(dict(frames.unpack_setting(payload)))
        elif kind == frames.PING:
            if not flags & frames.ACK:
                self._write(frames.ping(payload, ack=True))
        elif kind == frames.RST_STREAM:
            raise LoadError(f"the proxy reset a call: {frames.unpack_u32(payload)[0]}")
        elif kind == frames.GOAWAY:
            raise LoadError(f"the proxy sent GOAWAY: {payload!r}")

    def _widen(self, stream_id: int, increment: int) -> None:
        if stream_id:
            self._windows[stream_id] = self._windows.get(stream_id, 0) + increment
        else:
            self._window += increment

    def _on_settings(self, values: dict[int, int]) -> None:
        if values.get(frames.HEADER_TABLE_SIZE, DEFAULT_TABLE_SIZE) < DEFAULT_TABLE_SIZE:
            raise LoadError("the proxy allows no dynamic table, which the calls are encoded with")
        self._stream_window = values.get(frames.INITIAL_WINDOW_SIZE, self._stream_window)
        self._ready = True
        self._write(frames.SETTINGS_ACK)

    def verify(self, calls: int, octets: int) -> None:
        """Prove that every call was answered in full and with status 0.

        Args:
            calls: How many calls were made on this connection.
            octets: What each answer is long, all messages with their prefixes.

        Raises:
            LoadError: One was not.
        """
        if not len(self.begun) == self.done == calls:
            raise LoadError(f"{len(self.begun)} calls began and {self.done} ended, not {calls}")
        if wrong := [size for size in self.octets if size != octets]:
            raise LoadError(f"{len(wrong)} answers have not {octets} octets, but {wrong[:5]}")
        decoder, heads = Decoder(), 0
        for last, block in self._blocks:
            fields = {name: value for name, value, _ in decoder.decode(block)}
            name, value = (b"grpc-status", b"0") if last else (b":status", b"200")
            if fields.get(name) != value:
                raise LoadError(f"a call was not answered with {name!r} of {value!r}: {fields}")
            heads += not last
        if heads != calls:
            raise LoadError(f"{calls} calls have {heads} heads of answers")
