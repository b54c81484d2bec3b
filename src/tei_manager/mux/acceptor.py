"""Accepts clients, up to a number, and only while there are file descriptors to spare.

Theory
    What a process cannot do without a descriptor is to reach an instance, so the last ones are
    kept for that. When clients have taken the others, nobody is accepted for a while: new clients
    wait in the kernel's queue and are served when others have gone, and calls under way go on.
    A listening socket stays readable all that time, so it must not be watched: a loop that is told
    of a client whom it cannot accept would do nothing else.

    A client above the limit of connections is told so and closed, since its waiting would help
    nobody: who holds that many does not let go soon. It is not told where it expects TLS.

    The sockets share one limit. Whoever comes by a Unix socket is on this machine and has passed
    the permissions of its file, so TLS and the limit of an address are for the others.

Rules of this file
    1. Whoever is accepted is counted until its connection is lost, or was never made; a hand-shake
       under way counts.

Ownership
    `close` closes the listening sockets; the kernel keeps the queue for other processes that have
    them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from tei_manager.mux.admission import TokenClient
from tei_manager.mux.handshake import SHUTDOWN_SECONDS, failure
from tei_manager.mux.listener import Client
from tei_manager.tls import Certificates
from tei_manager.tokens import Tokens
from tei_manager.wire import frames
from tei_manager.wire.frames import ErrorCode

if TYPE_CHECKING:
    from tei_manager.mux.switch import Switch

logger = logging.getLogger(__name__)

BACKLOG = 1024
"""Clients that wait in the kernel's queue."""

MAX_ACCEPTS = 32
"""Clients accepted in one turn of the loop: half of the reserve, which is looked at once a turn."""

RESERVED_FILES = 64
"""Descriptors that clients do not get: connections to eight busy instances."""

PAUSE_SECONDS = 0.1
"""How long nobody is accepted when descriptors are short: ten looks a second cost nothing."""

_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts from all listening sockets of a worker.

    Args:
        switch: What all connections of the worker share; its options have the limits.
        listening: Bound sockets, at least one.
        certificates: For TLS on those that are no Unix sockets; ``None`` for no TLS.
        tokens: Calls need one of these, on all sockets; ``None`` if they need none.
    """

    def __init__(
        self,
        switch: Switch,
        listening: Sequence[socket.socket],
        certificates: Certificates | None = None,
        tokens: Tokens | None = None,
    ) -> None:
        self._switch = switch
        self._listening = listening
        self._certificates = certificates
        self._tokens = tokens
        self._clients: Counter[str] = Counter()  # by address
        self._making: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        for listening in self._listening:
            listening.setblocking(False)
            listening.listen(BACKLOG)
        self._watch()

    async def close(self) -> None:
        """Accept no more; return when those that were accepted are connected, and stay."""
        if self._timer is not None:
            self._timer.cancel()
        self._ignore()
        for listening in self._listening:
            listening.close()
        await asyncio.gather(*self._making, return_exceptions=True)

    def _watch(self) -> None:
        self._timer = None
        for listening in self._listening:
            self._switch.loop.add_reader(listening, self._accept, listening)

    def _ignore(self) -> None:
        for listening in self._listening:
            self._switch.loop.remove_reader(listening)

    def _accept(self, listening: socket.socket) -> None:
        if not self._has_files():
            self._pause()
            return
        for _ in range(MAX_ACCEPTS):
            try:
                sock, address = listening.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause()
                return  # nobody is left, or who came has gone again
            self._admit(sock, address[0] if sock.family != socket.AF_UNIX else "")

    def _has_files(self) -> bool:
        """Say whether descriptors are left beside the reserve: the lowest free one tells."""
        most = os.sysconf("SC_OPEN_MAX")
        try:
            lowest = os.dup(self._listening[0].fileno())
        except OSError:
            return False
        os.close(lowest)
        return most < 0 or lowest < most - RESERVED_FILES

    def _pause(self) -> None:
        self._switch.counters.reject("no_file_descriptors")
        if self._timer is None:  # another socket may have found it out in this very turn
            self._ignore()
            self._timer = self._switch.loop.call_later(PAUSE_SECONDS, self._watch)

    def _admit(self, sock: socket.socket, host: str) -> None:
        """Take a client, or turn it away; ``host`` is empty on a Unix socket."""
        options = self._switch.options
        if self._clients.total() >= options.max_connections:
            self._turn_away(sock, "too many connections", options.max_connections)
        elif self._has_its_share(host):
            message = "too many connections from this address"
            self._turn_away(sock, message, options.max_connections_of_address)
        else:
            self._clients[host] += 1
            task = self._switch.loop.create_task(self._make(sock, host))
            self._making.add(task)
            task.add_done_callback(self._making.discard)

    def _has_its_share(self, host: str) -> bool:
        most = self._switch.options.max_connections_of_address
        return bool(host) and self._clients[host] >= most and not is_loopback(host)

    async def _make(self, sock: socket.socket, host: str) -> None:
        certificates = self._certificates if host else None
        gone = partial(self._release, host)
        if self._tokens is None:
            client = Client(self._switch, gone, certificates)
        else:
            client = TokenClient(self._switch, gone, certificates, self._tokens)
        try:
            if certificates is None:
                await self._switch.loop.connect_accepted_socket(lambda: client, sock)
            else:
                await self._shake_hands(client, sock, certificates)
        except OSError as error:  # or it had gone before there was a transport
            if certificates is not None:
                self._switch.counters.reject(failure(error))
                logger.debug("the hand-shake of a client at %s failed: %s", host, error)
        finally:
            if not client.met:  # it will not be told that its connection is lost
                sock.close()
                self._release(host)

    async def _shake_hands(
        self, client: Client, sock: socket.socket, certificates: Certificates
    ) -> None:
        await self._switch.loop.connect_accepted_socket(
            lambda: client,
            sock,
            ssl=certificates.context,
            ssl_handshake_timeout=certificates.tls.handshake_secs,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )

    def _release(self, host: str) -> None:
        self._clients[host] -= 1
        if not self._clients[host]:
            del self._clients[host]

    def _turn_away(self, sock: socket.socket, message: str, limit: int) -> None:
        self._switch.counters.reject(message.replace(" ", "_"))
        goodbye = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, f"{message} ({limit})".encode())
        if self._certificates is None or sock.family == socket.AF_UNIX:
            with suppress(OSError):
                sock.send(frames.settings({}) + goodbye)
        sock.close()


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own, also as IPv6 writes IPv4."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
