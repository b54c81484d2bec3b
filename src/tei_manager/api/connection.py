"""A connection of the control API: uvicorn's, with limits on what a slow or broken peer may hold.

uvicorn itself ends a connection that is idle after an answer. Here are the limits for all other
waiting: for the head of a request, and for a client to read what was sent. `bodies` has those of
the body.
"""

from __future__ import annotations

import asyncio
import socket

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from tei_manager.api.problems import problem
from tei_manager.tls import Certificates

# Seconds from a connection's start, or a request's first octet, to the end of its head.
HEAD_SECONDS = 5.0

# Seconds for a client to take what fills its transport.
WRITE_SECONDS = 30.0

# Operators, scrapers and followed logs of one machine.
MAX_CONNECTIONS = 256


class Connection(H11Protocol):
    """One connection, from `connection_made` to `connection_lost`.

    Attributes:
        certificates: Say which clients may come in; ``None`` without TLS.
    """

    certificates: Certificates | None = None
    _head: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or refuse one too many."""
        super().connection_made(transport)  # type: ignore[arg-type]  # uvicorn asks for less
        # asyncio does so itself only for sockets that name their protocol, which a listening one
        # does not; a body would wait until the client acknowledges its head, for 40 ms.
        accepted = transport.get_extra_info("socket")
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > MAX_CONNECTIONS:
            sentence = f"There are {MAX_CONNECTIONS} connections already; try again later"
            self._end(503, "TOO_MANY_CONNECTIONS", sentence)
        elif self.certificates and not self.certificates.admits(
            transport.get_extra_info("peercert")
        ):
            sentence = "No name in the client's certificate is one of [api] tls_client_names"
            self._end(403, "FORBIDDEN", sentence)
        else:
            self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        for timer in (self._head, self._stalled):
            if timer is not None:
                timer.cancel()

    def handle_events(self) -> None:
        """Act on what came, then see whether it is a head that is not whole yet."""
        super().handle_events()
        self._watch_head()

    def _watch_head(self) -> None:
        busy = self.cycle is not None and not self.cycle.response_complete
        idle = self.timeout_keep_alive_task is not None
        if (busy or idle) and self._head is not None:
            self._head.cancel()
            self._head = None
        elif not (busy or idle) and self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_late(self) -> None:
        sentence = f"The head of the request did not come within {HEAD_SECONDS:g} s"
        self._end(408, "REQUEST_TIMEOUT", sentence)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request; uvicorn's own answer is plain text."""
        del msg
        sentence = "This is not a request of HTTP/1.1, or its head is too large"
        self._end(400, "BAD_REQUEST", sentence)

    def _end(self, status: int, code: str, sentence: str) -> None:
        """Answer with an error, if an answer can still be sent, and close."""
        if self.transport.is_closing():
            return
        answer = problem(status, code, sentence, {"connection": "close"})
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=status, headers=answer.raw_headers)
            for event in (response, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        """Stop sending to a client that does not read, and end it if that lasts."""
        super().pause_writing()
        self._stalled = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on sending."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None
