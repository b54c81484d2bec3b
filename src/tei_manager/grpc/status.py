"""gRPC status codes, and the one coding of ``grpc-message`` that the protocol allows."""

from __future__ import annotations

from enum import IntEnum
from urllib.parse import unquote_to_bytes


class Code(IntEnum):
    """Status codes of gRPC, numbers as on the wire."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class StatusError(Exception):
    """Ends a call with a status; raised where the mistake is found, answered at the call's edge."""

    def __init__(self, code: Code, message: str) -> None:
        self.code = code
        self.message = message
        super().__init__(f"{code.name}: {message}")


# What may stand in grpc-message as it is: printable ASCII but "%" (gRPC over HTTP/2, "Responses").
_PLAIN = frozenset(range(0x20, 0x7F)) - {ord("%")}

# The longest grpc-message that we write ourselves. Clients such as C-core refuse header lists over
# 8 KiB; a sentence needs far less, and a caller's own text must not be able to fill it.
MAX_MESSAGE_BYTES = 1024


def encode_message(message: str) -> bytes:
    """Percent-encode a status message, cut so that its UTF-8 form fits `MAX_MESSAGE_BYTES`."""
    raw = message.encode("utf-8", "replace")[:MAX_MESSAGE_BYTES]
    return b"".join(bytes((byte,)) if byte in _PLAIN else b"%%%02X" % byte for byte in raw)


def decode_message(value: bytes) -> str:
    """Return the text of a ``grpc-message``; broken escapes stay as they are, never an error."""
    return unquote_to_bytes(value).decode("utf-8", "replace")


# What a peer means that resets a stream without a status (gRPC over HTTP/2, "Errors").
_FROM_RESET = {
    0x7: Code.UNAVAILABLE,  # REFUSED_STREAM
    0x8: Code.CANCELLED,  # CANCEL
    0xB: Code.RESOURCE_EXHAUSTED,  # ENHANCE_YOUR_CALM
    0xC: Code.PERMISSION_DENIED,  # INADEQUATE_SECURITY
}

# What an HTTP status means where there is no grpc-status (doc/http-grpc-status-mapping.md).
_FROM_HTTP = {
    400: Code.INTERNAL,
    401: Code.UNAUTHENTICATED,
    403: Code.PERMISSION_DENIED,
    404: Code.UNIMPLEMENTED,
    429: Code.UNAVAILABLE,
    431: Code.INTERNAL,
    502: Code.UNAVAILABLE,
    503: Code.UNAVAILABLE,
    504: Code.UNAVAILABLE,
}


def from_reset(error_code: int) -> Code:
    """Return the status that an RST_STREAM with this error code stands for."""
    return _FROM_RESET.get(error_code, Code.INTERNAL)


def from_http(status: int) -> Code:
    """Return the status that an HTTP status without ``grpc-status`` stands for."""
    return _FROM_HTTP.get(status, Code.UNKNOWN)
