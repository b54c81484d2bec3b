"""Header lists read once: what a request or response says to a gRPC switch, and what travels on.

Theory
    A block is decoded by `hpack.Decoder` into fields that carry their own ready literal, then read
    here into a *head*: the few things that the switch acts upon, and ``forward``, the bytes of all
    fields that travel, to be put into another connection's block as they stand. Most peers send
    the same block again and again, fully indexed; so a head is remembered by the block's bytes for
    as long as the dynamic table stands still, which makes it a pure function of those bytes. Where
    a trace or a deadline is new in each call, the fields before it are the same; so a head is also
    remembered by how such blocks *begin* (`beginnings`), and only the rest is read.

Rules of this file
    1. A malformed list (RFC 9113 8.2, 8.3) is a `StreamError`: the stream is reset.
    2. A list that is sound HTTP/2 but no sound gRPC call is a head with a ``refusal``, which the
       call's owner answers with that status.
    3. A memo gives what decoding would give; a property test holds one against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NoReturn

from tei_manager.grpc.status import Code, StatusError, encode_message
from tei_manager.wire import hpack, messages, metadata
from tei_manager.wire.beginnings import MAX_RESTS, Beginning, fill, find_slots
from tei_manager.wire.frames import ErrorCode, StreamError

MAX_MEMO = 64
"""Blocks remembered for one connection; a client in steady state has one for each method."""

MAX_BEGINNINGS = 8
"""Beginnings remembered for one connection: one for each method that a client calls in turn."""

MAX_NEW_FIELDS = 8
"""Fields that may be new behind a known beginning; with more of them it would not be worth it."""

MAX_LESSONS = 64
"""Blocks of a connection from which a beginning may be learned: where all differ from the start
it would be of no use."""

MAX_MEMO_OCTETS = 2048
"""Octets of a block and of what it forwards; with larger ones a peer could fill the memory."""

MAX_AUTHORIZATION = 512
"""Octets of ``authorization`` that are kept as long as a call lasts."""

TOO_LONG = b"too long"
"""What a longer one reads as."""

Fields = Iterable[tuple[bytes, bytes, bytes]]

NO_TARGETS: dict[bytes, bytes] = {}
"""What heads without ``x-tei-*`` fields have in common."""


class RequestHead:
    """What a request's header block says.

    ``timeout`` is grpc-timeout in seconds, ``content_length`` is -1 where there is none, and
    ``targets`` holds the ``x-tei-*`` fields, which route native calls and do not travel; heads
    share it, so it is replaced and never changed.
    ``authorization`` is for us and does not travel either; one that is longer than
    `MAX_AUTHORIZATION`, or comes twice, reads as what no token is.
    ``opaque`` has the fields of `metadata.OF_MESSAGES`, for calls that nobody looks into.
    """

    __slots__ = (
        "authority",
        "authorization",
        "content_length",
        "content_type",
        "encoding",
        "forward",
        "host",
        "method",
        "opaque",
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
        self.host: bytes | None = None
        self.authorization = b""
        self.content_type = b""
        self.content_length = -1
        self.encoding = b"identity"
        self.timeout: float | None = None
        self.targets = NO_TARGETS
        self.forward = b""
        self.opaque = b""
        self.refusal: StatusError | None = None

    def copy(self) -> RequestHead:
        """Return a head that says the same."""
        head = RequestHead.__new__(RequestHead)
        head.method, head.scheme, head.path = self.method, self.scheme, self.path
        head.authority, head.host, head.timeout = self.authority, self.host, self.timeout
        head.content_type, head.content_length = self.content_type, self.content_length
        head.encoding, head.targets = self.encoding, self.targets
        head.authorization = self.authorization
        head.forward, head.opaque, head.refusal = self.forward, self.opaque, self.refusal
        return head


class HeadReader:
    """Reads the header blocks of one connection; owns its HPACK decoder.

    Args:
        build: `read_request` or `read_response`.
        build_trailers: The same for the second block of a stream.
        recognise: Reads the common form of a first block without decoding it, or gives None.

    ``trailers_memo`` holds what `read_trailers` found in a block, by its bytes.
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
        self.trailers_memo: dict[bytes, Any] = {}
        self._beginnings: list[Beginning] = []
        self._last = b""
        self._lessons = MAX_LESSONS
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
        if head is not None:
            return head
        for beginning in self._beginnings:
            if block.startswith(beginning.block):
                return self._go_on(block, beginning)
        return self._decode(block, self._memo, self._build)

    def read_trailers(self, block: bytes) -> Any:
        """Return the head of a stream's second block; raises as `read` does."""
        head = self.trailers_memo.get(block)
        if head is not None:
            return head
        return self._decode(block, self.trailers_memo, self._build_trailers)

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
        if len(block) + len(head.forward) + len(head.opaque) <= MAX_MEMO_OCTETS:
            if len(memo) >= MAX_MEMO:
                memo.clear()
            memo[block] = head
            if build is read_request:
                self._learn(block, fields)
        return head

    def _go_on(self, block: bytes, beginning: Beginning) -> RequestHead:
        """Decode the rest of a block whose beginning is known."""
        known, head, listed, count, rests = beginning
        rest = block[len(known) :]
        slots = rests.get(len(rest))
        found = fill(head, rest, slots) if slots is not None else None
        if found is not None:
            return found
        before = self._decoder.generation
        try:
            fields = self._decoder.decode(block, len(known), listed, count)
        except hpack.HeaderListTooLarge as error:
            self._check_generation()
            return _too_large(str(error), read_request)
        self._check_generation()
        found = read_request(fields, head)
        if self._decoder.generation == before and found.refusal is None:
            self._learn_rest(beginning, rest, fields)
        return found

    def _learn_rest(self, beginning: Beginning, rest: bytes, fields: list[hpack.Field]) -> None:
        if len(fields) > MAX_NEW_FIELDS or len(rest) > MAX_MEMO_OCTETS:
            return
        slots = find_slots(rest, fields, _REQUEST_SPECIAL)
        if slots is not None and len(beginning.rests) < MAX_RESTS:
            beginning.rests[len(rest)] = slots

    def _learn(self, block: bytes, fields: list[hpack.Field]) -> None:
        """Remember what a block has in common with the one before it, if that says enough."""
        last, self._last = self._last, block
        self._lessons -= 1
        ends = hpack.field_ends(block) if self._lessons >= 0 else []
        count = sum(last[:end] == block[:end] for end in ends)
        if count < max(1, len(fields) - MAX_NEW_FIELDS) or fields[count - 1][0][:1] == b":":
            return
        with suppress(StreamError):  # of a beginning without its pseudo-header fields
            listed = sum(len(name) + len(value) + 32 for name, value, _ in fields[:count])
            head = read_request(fields[:count])
            del self._beginnings[MAX_BEGINNINGS - 1 :]
            self._beginnings.insert(0, Beginning(block[: ends[count - 1]], head, listed, count, {}))

    def _check_generation(self) -> None:
        if self._decoder.generation != self._generation:
            self._generation = self._decoder.generation
            self._memo.clear()
            self.trailers_memo.clear()
            self._beginnings.clear()
            self._last = b""
            self._lessons = MAX_LESSONS


def _too_large(message: str, build: Callable[[Fields], Any]) -> RequestHead:
    """A request with too many fields is answered like any other mistake of a caller."""
    if build is not read_request:
        raise StreamError(ErrorCode.ENHANCE_YOUR_CALM, message)
    head = RequestHead()
    head.path = b""
    head.refusal = StatusError(Code.RESOURCE_EXHAUSTED, message)
    return head


def malformed(what: str) -> NoReturn:
    """Raise the error for a header list that breaks the rules."""
    raise StreamError(ErrorCode.PROTOCOL_ERROR, what)


_PSEUDO = {b":method": "method", b":scheme": "scheme", b":path": "path", b":authority": "authority"}
_TARGETS = frozenset((b"x-tei-instance", b"x-tei-model", b"x-tei-index"))
_REQUEST_SPECIAL = (
    metadata.CONNECTION_SPECIFIC
    | metadata.DROPPED_FROM_REQUESTS
    | _TARGETS
    | {b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding"}
)


def read_request(fields: Fields, beginning: RequestHead | None = None) -> RequestHead:
    """Read a request's header list.

    Args:
        fields: The fields.
        beginning: What those before them say; left as it is.

    Raises:
        StreamError: It is malformed.
    """
    head = RequestHead() if beginning is None else beginning.copy()
    travels: list[bytes] = [head.forward]
    regular = beginning is not None
    for name, value, wire in fields:
        if name[:1] == b":":
            slot = _PSEUDO.get(name)
            if slot is None or regular or getattr(head, slot) is not None:
                malformed(f"pseudo-header field {name!r} unknown, repeated or late")
            setattr(head, slot, value)
            continue
        regular = True
        if not metadata.valid_name(name) or not metadata.valid_value(value):
            malformed(f"field {name[:64]!r} has characters that it must not have")
        if name not in _REQUEST_SPECIAL:
            if name[-4:] == b"-bin" and not metadata.valid_binary(value):
                message = f"metadata '{name[:64].decode()}' is not base64"
                head.refusal = StatusError(Code.INVALID_ARGUMENT, message)
            travels.append(wire)
        elif name == b"host":
            if head.host is not None:
                malformed("two host fields")
            head.host = value
        else:
            if name in metadata.OF_MESSAGES:
                head.opaque += wire
            _read_special(head, name, value)
    if head.method is None or not head.scheme or not head.path:
        malformed("a request needs :method, :scheme and :path")
    if head.host is not None and head.authority not in (None, head.host):
        malformed("host differs from :authority")
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
            malformed("te is not trailers")
    elif name == b"content-length":
        if not value.isdigit() or len(value) > 18 or head.content_length not in (-1, int(value)):
            malformed("content-length is no single number")
        head.content_length = int(value)
    elif name == b"authorization":
        both = b"%b, %b" % (head.authorization, value) if head.authorization else value
        head.authorization = both if len(both) <= MAX_AUTHORIZATION else TOO_LONG
    elif name in _TARGETS:
        head.targets = head.targets | {name: value}
    elif name in metadata.CONNECTION_SPECIFIC:
        malformed(f"connection-specific field {name!r}")


def read_request_trailers(fields: Fields) -> RequestHead:
    """Read the trailers of a request. gRPC gives them no meaning, so nothing of them travels.

    Raises:
        StreamError: They are malformed.
    """
    for name, value, _wire in fields:
        if not metadata.valid_name(name) or not metadata.valid_value(value):
            malformed(f"trailer {name[:64]!r} has characters that it must not have")
    return RequestHead()


def server_heads() -> HeadReader:
    """Return a reader for a connection that a client opened to us."""
    return HeadReader(read_request, read_request_trailers)


CONTENT_TYPE = hpack.literal(b"content-type", b"application/grpc")
ANSWER = hpack.STATUS_200 + CONTENT_TYPE + hpack.literal(b"grpc-accept-encoding", messages.ACCEPTED)
"""How every answer that we make ourselves begins; it says which encodings may be sent to us."""


PUSHBACK = hpack.literal(b"grpc-retry-pushback-ms", b"1000")
"""Goes with a refusal for want of room: clients that try again by themselves wait so long first
(gRFC A6, whose example of a longest pause is a second)."""


def status_trailers(code: int, message: str) -> bytes:
    """Return trailers with a status of our own."""
    block = hpack.literal(b"grpc-status", b"%d" % code)
    return block + hpack.literal(b"grpc-message", encode_message(message)) if message else block
