"""Header lists read once: what a request or response says to a gRPC switch, and what travels on.

Theory
    A block is decoded by `hpack.Decoder` into fields that carry their own ready literal, then read
    here into a *head*: the few things that the switch acts upon, and ``forward``, the bytes of all
    fields that travel, to be put into another connection's block as they stand. Most peers send
    the same block again and again, fully indexed; so a head is remembered by the block's bytes for
    as long as the dynamic table stands still, which makes it a pure function of those bytes.

Rules of this file
    1. A malformed list (RFC 9113 8.2, 8.3) is a `StreamError`: the stream is reset.
    2. A list that is sound HTTP/2 but no sound gRPC call is a head with a ``refusal``, which the
       call's owner answers with that status.
    3. A memo gives what decoding would give; a property test holds one against the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn

from tei_manager.grpc.status import Code, StatusError, encode_message
from tei_manager.wire import hpack, messages, metadata
from tei_manager.wire.frames import ErrorCode, StreamError

MAX_MEMO = 64
"""Blocks remembered for one connection; a client in steady state has one for each method."""

MAX_MEMO_OCTETS = 2048
"""Octets of a block and of what it forwards; with larger ones a peer could fill the memory."""

Fields = Iterable[tuple[bytes, bytes, bytes]]


class RequestHead:
    """What a request's header block says.

    ``timeout`` is grpc-timeout in seconds, ``content_length`` is -1 where there is none, and
    ``targets`` holds the ``x-tei-*`` fields, which route native calls and do not travel.
    """

    __slots__ = (
        "authority",
        "content_length",
        "content_type",
        "encoding",
        "forward",
        "method",
        "path",
        "refusal",
        "scheme",
        "targets",
        "timeout",
    )

    def __init__(self) -> None:
        self.method: bytes | None = None
        self.scheme: bytes | None = None
        self.path: bytes | None = None
        self.authority: bytes | None = None
        self.content_type = b""
        self.content_length = -1
        self.encoding = b"identity"
        self.timeout: float | None = None
        self.targets: dict[bytes, bytes] = {}
        self.forward = b""
        self.refusal: StatusError | None = None


class ResponseHead:
    """What a response's header block or trailers say.

    ``status`` is the HTTP status, 0 in trailers; ``grpc_status`` is None where there is none.
    """

    __slots__ = ("forward", "grpc_status", "status")

    # Requests alone are held to their content-length; a response's body is gRPC's own business.
    content_length = -1

    def __init__(self) -> None:
        self.status = 0
        self.grpc_status: int | None = None
        self.forward = b""


class HeadReader:
    """Reads the header blocks of one connection; owns its HPACK decoder.

    Args:
        build: `read_request` or `read_response`.
        build_trailers: The same for the second block of a stream.
        recognise: Reads the common form of a first block without decoding it, or gives None.
    """

    def __init__(
        self,
        build: Callable[[Fields], Any],
        build_trailers: Callable[[Fields], Any],
        recognise: Callable[[bytes], Any] = lambda _block: None,
    ) -> None:
        self._recognise = recognise
        self._decoder = hpack.Decoder()
        self._build = build
        self._build_trailers = build_trailers
        self._memo: dict[bytes, Any] = {}
        self._trailers_memo: dict[bytes, Any] = {}
        self._generation = 0

    @property
    def max_list_size(self) -> int:
        """Decoded octets that a header list may have; advertised to the peer."""
        return self._decoder.max_list_size

    def read(self, block: bytes) -> Any:
        """Return the head of a stream's first block.

        Raises:
            StreamError: The list is malformed; the connection goes on.
            HpackError: The block does not decode; the connection is lost.
        """
        head = self._memo.get(block) or self._recognise(block)
        return head if head is not None else self._decode(block, self._memo, self._build)

    def read_trailers(self, block: bytes) -> Any:
        """Return the head of a stream's second block; raises as `read` does."""
        head = self._trailers_memo.get(block)
        if head is not None:
            return head
        return self._decode(block, self._trailers_memo, self._build_trailers)

    def skip(self, block: bytes) -> None:
        """Decode a block that nobody wants, so that the dynamic table stays in step."""
        with suppress(hpack.HeaderListTooLarge):
            self._decoder.decode(block)
        self._check_generation()

    def _decode(self, block: bytes, memo: dict[bytes, Any], build: Callable[[Fields], Any]) -> Any:
        before = self._decoder.generation
        try:
            fields = self._decoder.decode(block)
        except hpack.HeaderListTooLarge as error:
            self._check_generation()
            return _too_large(str(error), build)
        if self._decoder.generation != before:
            self._check_generation()
            return build(fields)
        head = build(fields)
        if len(block) + len(head.forward) <= MAX_MEMO_OCTETS:
            if len(memo) >= MAX_MEMO:
                memo.clear()
            memo[block] = head
        return head

    def _check_generation(self) -> None:
        if self._decoder.generation != self._generation:
            self._generation = self._decoder.generation
            self._memo.clear()
            self._trailers_memo.clear()


def _too_large(message: str, build: Callable[[Fields], Any]) -> RequestHead:
    """A request with too many fields is answered like any other mistake of a caller."""
    if build is not read_request:
        raise StreamError(ErrorCode.ENHANCE_YOUR_CALM, message)
    head = RequestHead()
    head.path = b""
    head.refusal = StatusError(Code.RESOURCE_EXHAUSTED, message)
    return head


def _malformed(what: str) -> NoReturn:
    raise StreamError(ErrorCode.PROTOCOL_ERROR, what)


_PSEUDO = {b":method": "method", b":scheme": "scheme", b":path": "path", b":authority": "authority"}
_TARGETS = frozenset((b"x-tei-instance", b"x-tei-model", b"x-tei-index"))
_REQUEST_SPECIAL = (
    metadata.CONNECTION_SPECIFIC
    | metadata.DROPPED_FROM_REQUESTS
    | _TARGETS
    | {b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)


def read_request(fields: Fields) -> RequestHead:
    """Read a request's header list.

    Raises:
        StreamError: It is malformed.
    """
    head = RequestHead()
    travels: list[bytes] = []
    regular = False
    host: bytes | None = None
    for name, value, wire in fields:
        if name[:1] == b":":
            slot = _PSEUDO.get(name)
            if slot is None or regular or getattr(head, slot) is not None:
                _malformed(f"pseudo-header field {name!r} unknown, repeated or late")
            setattr(head, slot, value)
            continue
        regular = True
        if not metadata.valid_name(name) or not metadata.valid_value(value):
            _malformed(f"field {name[:64]!r} has characters that it must not have")
        if name not in _REQUEST_SPECIAL:
            if name[-4:] == b"-bin" and not metadata.valid_binary(value):
                message = f"metadata '{name[:64].decode()}' is not base64"
                head.refusal = StatusError(Code.INVALID_ARGUMENT, message)
            travels.append(wire)
        elif name == b"host":
            if host is not None:
                _malformed("two host fields")
            host = value
        else:
            _read_special(head, name, value)
    if head.method is None or not head.scheme or not head.path:
        _malformed("a request needs :method, :scheme and :path")
    if host is not None and head.authority not in (None, host):
        _malformed("host differs from :authority")
    head.forward = b"".join(travels)
    return head


def _read_special(head: RequestHead, name: bytes, value: bytes) -> None:
    if name == b"content-type":
        head.content_type = value
    elif name == b"grpc-timeout":
        try:
            head.timeout = metadata.parse_timeout(value)
        except StatusError as error:
            head.refusal = error
    elif name == b"grpc-encoding":
        head.encoding = value
    elif name == b"te":
        if value != b"trailers":
            _malformed("te is not trailers")
    elif name == b"content-length":
        if not value.isdigit() or len(value) > 18 or head.content_length not in (-1, int(value)):
            _malformed("content-length is no single number")
        head.content_length = int(value)
    elif name in _TARGETS:
        head.targets[name] = value
    elif name in metadata.CONNECTION_SPECIFIC:
        _malformed(f"connection-specific field {name!r}")


def read_request_trailers(fields: Fields) -> RequestHead:
    """Read the trailers of a request. gRPC gives them no meaning, so nothing of them travels.

    Raises:
        StreamError: They are malformed.
    """
    for name, value, _wire in fields:
        if not metadata.valid_name(name) or not metadata.valid_value(value):
            _malformed(f"trailer {name[:64]!r} has characters that it must not have")
    return RequestHead()


_STATUS = re.compile(rb"[1-9][0-9][0-9]")
_RESPONSE_DROPPED = metadata.CONNECTION_SPECIFIC | metadata.DROPPED_FROM_RESPONSES


def read_response(fields: Fields) -> ResponseHead:
    """Read a response's header list.

    Raises:
        StreamError: It is malformed.
    """
    head = ResponseHead()
    rest = list(fields)
    if not rest or rest[0][0] != b":status" or not _STATUS.fullmatch(rest[0][1]):
        _malformed("a response begins with :status")
    head.status = int(rest[0][1])
    _read_answer(head, rest[1:])
    return head


def recognise_answer(block: bytes) -> ResponseHead | None:
    """Return what `read_response` gives for an answer that begins as nearly all do, else None.

    Such a block is ``:status: 200`` and then literals that are known to travel, none of which
    touches the dynamic table. So nothing has to be decoded, and all behind the status travels as
    it stands. The bounds keep it within what `hpack.Decoder` allows.
    """
    end = len(block)
    if block[:1] != hpack.STATUS_200 or end > _KNOWN_OCTETS:
        return None
    known, pos, fields = _PLAIN, 1, 1
    try:
        while pos < end:
            start = pos
            if block[pos] == 0:  # a literal with its name
                pos += 2 + (block[pos + 1] & 0x7F)
            elif block[pos] == 0x0F:  # one with a name from the static table
                pos += 2
            else:
                return None
            pos += 1 + (block[pos] & 0x7F)
            if block[start:pos] not in known:
                return None
            fields += 1
    except IndexError:
        return None
    if fields > _KNOWN_FIELDS:
        return None
    head = ResponseHead()
    head.status = 200
    head.forward = block[1:]
    return head


def read_response_trailers(fields: Fields) -> ResponseHead:
    """Read the trailers of a response.

    Raises:
        StreamError: They are malformed.
    """
    head = ResponseHead()
    _read_answer(head, fields)
    return head


# Wire forms of fields that were found sound and travel without being looked at. Most fields of an
# answer are such, and have one of a few hundred values.
_PLAIN: set[bytes] = set()
_PLAIN_ENTRIES = 4096
_PLAIN_OCTETS = 64

# Bounds for answers that are recognised: decoded, such a block has at most 8/5 of its octets and 32
# for each field, which is well below the limits of `hpack.Decoder`.
_KNOWN_OCTETS = 2048
_KNOWN_FIELDS = 100


def _read_answer(head: ResponseHead, fields: Fields) -> None:
    travels: list[bytes] = []
    for name, value, wire in fields:
        if wire in _PLAIN or _read_answer_field(head, name, value, wire):
            travels.append(wire)
    head.forward = b"".join(travels)


def _read_answer_field(head: ResponseHead, name: bytes, value: bytes, wire: bytes) -> bool:
    """Read one field and say whether it travels."""
    if not metadata.valid_name(name) or not metadata.valid_value(value):
        _malformed(f"field {name[:64]!r} has characters that it must not have")
    if name in _RESPONSE_DROPPED:
        return False
    if name == b"grpc-status":
        small = value.isdigit() and len(value) <= 10
        head.grpc_status = int(value) if small else int(Code.UNKNOWN)
    elif len(wire) <= _PLAIN_OCTETS:
        if len(_PLAIN) >= _PLAIN_ENTRIES:
            _PLAIN.clear()
        _PLAIN.add(wire)
    return True


def server_heads() -> HeadReader:
    """Return a reader for a connection that a client opened to us."""
    return HeadReader(read_request, read_request_trailers)


def client_heads() -> HeadReader:
    """Return a reader for a connection that we opened to an instance."""
    return HeadReader(read_response, read_response_trailers, recognise_answer)


CONTENT_TYPE = hpack.literal(b"content-type", b"application/grpc")
ANSWER = hpack.STATUS_200 + CONTENT_TYPE + hpack.literal(b"grpc-accept-encoding", messages.ACCEPTED)
"""How every answer that we make ourselves begins; it says which encodings may be sent to us."""


def status_trailers(code: int, message: str) -> bytes:
    """Return trailers with a status of our own."""
    block = hpack.literal(b"grpc-status", b"%d" % code)
    return block + hpack.literal(b"grpc-message", encode_message(message)) if message else block
