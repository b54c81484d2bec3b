"""What a header block comes to, as values that tests compare."""

from __future__ import annotations

from typing import Any

import hpack as oracle

from tei_manager.wire.frames import StreamError

CONTENT = (b"content-type", b"application/grpc")


def travels(forward: bytes) -> list[tuple[bytes, bytes]]:
    return [
        (bytes(name), bytes(value)) for name, value in oracle.Decoder().decode(forward, raw=True)
    ]


def shape(head: Any) -> Any:
    """A head as a value."""
    return {name: repr(getattr(head, name)) for name in head.__slots__}


def outcome(call: Any, *args: Any) -> Any:
    try:
        return shape(call(*args))
    except StreamError as error:
        return error.code, error.message
