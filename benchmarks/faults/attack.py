"""Plays floods on sockets and says how each connection ended."""

from __future__ import annotations

import contextlib
import select
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from time import monotonic

from benchmarks.faults.floods import Flood
from tei_manager.wire import frames

ATTACK_SECONDS = 4.0
"""How long one connection goes on at most."""

LINGER_SECONDS = 1.2
"""How long the server may take to act on the last unit. Envoy closes a second after it decides."""

DEAF_BUFFER = 4096
"""Receive buffer of an attacker that does not read, in octets: the server soon feels it."""

BATCH = 16
"""Units in one write: few enough that the count of frames means something."""


@dataclass(frozen=True)
class Ending:
    """How a connection ended.

    Args:
        how: "GOAWAY 11", "closed", "kept", or "GOAWAY 0, kept".
        ended: Whether the server closed it or sent a GOAWAY with an error.
        frames: Frames that the kernel had taken by then. The server has read fewer.
        seconds: From the first unit on.
        resets: RST_STREAM frames that came back.
    """

    how: str
    ended: bool
    frames: int
    seconds: float
    resets: int


class FrameReader:
    """Notes GOAWAY and RST_STREAM in what a server sends."""

    def __init__(self) -> None:
        self._rest = b""
        self.goaway: int | None = None
        self.kinds: Counter[int] = Counter()

    def feed(self, data: bytes) -> None:
        """Read whole frames; the rest waits."""
        data = self._rest + data
        pos = 0
        while len(data) - pos >= 9:
            word, _, _ = frames.unpack_header(data, pos)
            stop = pos + 9 + (word >> 8)
            if stop > len(data):
                break
            self.kinds[word & 0xFF] += 1
            if word & 0xFF == frames.GOAWAY:
                self.goaway = frames.unpack_u32(data, pos + 13)[0]
            pos = stop
        self._rest = data[pos:]


class Attacker:
    """One connection of a flood."""

    def __init__(self, port: int, flood: Flood) -> None:
        self._socket = socket.socket()
        if not flood.reads:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, DEAF_BUFFER)
        self._socket.connect(("127.0.0.1", port))
        self._flood = flood
        self._units = flood.units()
        self._out = memoryview(flood.hello)
        self._queued = 0
        self._reader = FrameReader()
        self._closed = False

    def run(self) -> Ending:
        """Send until the server ends it, the flood is over, or the time is."""
        with contextlib.closing(self._socket):
            self._socket.setblocking(False)
            begun = monotonic()
            self._play(begun + ATTACK_SECONDS)
            seconds = monotonic() - begun
            self._read_rest()
        return self._ending(seconds)

    def _play(self, deadline: float) -> None:
        while not self._over and (now := monotonic()) < deadline:
            if not self._out and not self._refill():
                deadline = min(deadline, now + LINGER_SECONDS)
            self._turn(deadline)

    def _turn(self, deadline: float) -> None:
        """Wait until the socket is ready for one of its ways, and use it."""
        wanted = [self._socket]
        readers = wanted if self._flood.reads or not self._out else []
        wait = max(0.0, deadline - monotonic())
        ready = select.select(readers, wanted if self._out else [], [], wait)
        with self._noticing():
            if ready[0]:
                self._read()
            if ready[1]:
                self._out = self._out[self._socket.send(self._out) :]

    @property
    def _over(self) -> bool:
        return self._closed or bool(self._reader.goaway)

    def _refill(self) -> bool:
        units = list(islice(self._units, BATCH))
        self._out = memoryview(b"".join(units))
        self._queued += len(units) * self._flood.frames
        return bool(units)

    def _read(self) -> None:
        data = self._socket.recv(1 << 18)
        self._reader.feed(data)
        self._closed = self._closed or not data

    def _read_rest(self) -> None:
        """Read what came before the end: a GOAWAY may be in it."""
        closed = self._closed
        with self._noticing():
            self._closed = False
            while not self._closed:
                self._read()
        self._closed = self._closed or closed

    @contextlib.contextmanager
    def _noticing(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:
            pass
        except OSError:
            self._closed = True

    def _ending(self, seconds: float) -> Ending:
        code = self._reader.goaway
        said = "" if code is None else f"GOAWAY {code}"
        how = said or ("closed" if self._closed else "kept")
        if code == 0 and not self._closed:
            how += ", kept"
        resets = self._reader.kinds[frames.RST_STREAM]
        return Ending(how, self._over, self._queued, round(seconds, 3), resets)


def attack(port: int, flood: Flood, connections: int) -> list[Ending]:
    """Play a flood on some connections at once."""
    attackers = [Attacker(port, flood) for _ in range(connections)]
    with ThreadPoolExecutor(connections) as threads:
        return list(threads.map(Attacker.run, attackers))
