"""Accepts clients, up to a number, and only while there are file descriptors to spare.

Theory
    What a process cannot do without a descriptor is to reach an instance, so the last ones are
    kept for that. When clients have taken the others, nobody is accepted for a while: new clients
    wait in the kernel's queue and are served when others have gone, and calls under way go on.
    A listening socket stays readable all that time, so it must not be watched: a loop that is told
    of a client whom it cannot accept would do nothing else.

    A client above the limit of connections is told so and closed, since its waiting would help
    nobody: who holds that many does not let go soon.

Rules of this file
    1. Whoever is accepted is counted until its connection is lost, or was never made.

Ownership
    `close` closes the listening socket; the kernel keeps the queue for other processes that have
    it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import Counter
from contextlib import suppress
from functools import partial
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING

from tei_manager.mux.listener import Client
from tei_manager.wire import frames
from tei_manager.wire.frames import ErrorCode

if TYPE_CHECKING:
    from tei_manager.mux.switch import Switch

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
    """Accepts from one listening socket.

    Args:
        switch: What all connections of the worker share; its options have the limits.
        listening: A bound socket.
    """

    def __init__(self, switch: Switch, listening: socket.socket) -> None:
        self._switch = switch
        self._listening = listening
        self._clients: Counter[str] = Counter()  # by address
        self._making: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Accept from now on."""
        self._listening.setblocking(False)
        self._listening.listen(BACKLOG)
        self._watch()

    def close(self) -> None:
        """Accept no more; clients that are connected stay."""
        if self._timer is not None:
            self._timer.cancel()
        self._switch.loop.remove_reader(self._listening)
        self._listening.close()

    def _watch(self) -> None:
        self._timer = None
        self._switch.loop.add_reader(self._listening, self._accept)

    def _accept(self) -> None:
        if not self._has_files():
            self._pause()
            return
        for _ in range(MAX_ACCEPTS):
            try:
                sock, address = self._listening.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._pause()
                return  # nobody is left, or who came has gone again
            self._admit(sock, address[0])

    def _has_files(self) -> bool:
        """Say whether descriptors are left beside the reserve: the lowest free one tells."""
        most = os.sysconf("SC_OPEN_MAX")
        try:
            lowest = os.dup(self._listening.fileno())
        except OSError:
            return False
        os.close(lowest)
        return most < 0 or lowest < most - RESERVED_FILES

    def _pause(self) -> None:
        self._switch.counters.reject("no_file_descriptors")
        self._switch.loop.remove_reader(self._listening)
        self._timer = self._switch.loop.call_later(PAUSE_SECONDS, self._watch)

    def _admit(self, sock: socket.socket, host: str) -> None:
        options = self._switch.options
        if self._clients.total() >= options.max_connections:
            self._turn_away(sock, "too many connections", options.max_connections)
        elif not is_loopback(host) and self._clients[host] >= options.max_connections_of_address:
            message = "too many connections from this address"
            self._turn_away(sock, message, options.max_connections_of_address)
        else:
            self._clients[host] += 1
            task = self._switch.loop.create_task(self._make(sock, host))
            self._making.add(task)
            task.add_done_callback(self._making.discard)

    async def _make(self, sock: socket.socket, host: str) -> None:
        gone = partial(self._release, host)
        try:
            await self._switch.loop.connect_accepted_socket(
                lambda: Client(self._switch, gone), sock
            )
        except OSError:  # it had gone before there was a transport
            sock.close()
            gone()

    def _release(self, host: str) -> None:
        self._clients[host] -= 1
        if not self._clients[host]:
            del self._clients[host]

    def _turn_away(self, sock: socket.socket, message: str, limit: int) -> None:
        self._switch.counters.reject(message.replace(" ", "_"))
        goodbye = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, f"{message} ({limit})".encode())
        with suppress(OSError):
            sock.send(frames.settings({}) + goodbye)
        sock.close()


def is_loopback(host: str) -> bool:
    """Say whether an address is this machine's own, also as IPv6 writes IPv4."""
    address = ip_address(host)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback
