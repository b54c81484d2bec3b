"""Clients who need a token for each call: `listener.Client` with a question before everything.

It is asked where a call's headers are read, whichever way its messages come, so that no way that
is shorter goes around it; and as it is asked in a class of its own, a port without tokens pays
nothing for it. Health stays open, as probes of container platforms send no token.
"""

from __future__ import annotations

from collections.abc import Callable

from tei_manager.grpc.status import Code, StatusError
from tei_manager.mux.listener import Client, label_of
from tei_manager.mux.switch import Switch
from tei_manager.tls import Certificates
from tei_manager.tokens import Tokens
from tei_manager.wire import metadata
from tei_manager.wire.headers import RequestHead
from tei_manager.wire.stream import Stream

_OPEN = b"/grpc.health.v1.Health/"

_NONE = "Send the metadata 'authorization: Bearer TOKEN' with a token of this multiplexer"
_WRONG = "The token is not one of this multiplexer's; ask its operator for another"


class TokenClient(Client):
    """One client's connection, whose calls need a token each.

    Args:
        switch: What all connections of the worker share.
        gone: Called when the connection is lost.
        certificates: Who may stay on a connection with TLS; ``None`` on one without.
        tokens: Those that are good.
    """

    def __init__(
        self,
        switch: Switch,
        gone: Callable[[], None],
        certificates: Certificates | None,
        tokens: Tokens,
    ) -> None:
        super().__init__(switch, gone, certificates)
        self._tokens = tokens

    def on_request(self, stream: Stream, head: RequestHead, end: bool) -> None:
        """Refuse a call without a good token; give any other to who serves it."""
        path = head.path or b""
        if (
            self._tokens.admits(head.authorization)
            or path.startswith(_OPEN)
            or not metadata.is_grpc(head.content_type)  # no call, and answered as none
        ):
            super().on_request(stream, head, end)
            return
        self.switch.counters.in_flight += 1
        message = _WRONG if head.authorization else _NONE
        self._refuse(stream, label_of(path), StatusError(Code.UNAUTHENTICATED, message))
