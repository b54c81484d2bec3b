r"""Cut a multiplexer message, ``{target = 1, request = 2}``, into its two parts, unparsed.

The switch has to understand the target and only to carry the request, and field 2 *is* the request
that the backend wants. So nothing is decoded and encoded again: a slice is found and gets a prefix.

Two ways, one result
    `split_canonical` is one look at a chunk that is one whole message as encoders write it: the
    hot path, and the reason why this beats protobuf's own parser. All else goes to a
    `RequestReader`, which gives the same octets for any other encoding and for any cut into
    chunks. A property test holds the two, and protobuf, against each other.

Cut through or held
    Where the target comes first and field 2 ends exactly where the message ends, which the length
    of field 2 tells, the request goes on as it comes and is never held. In every other layout the
    later octets could change the target or the request's length, so the message is held whole, up
    to a limit; and so is a compressed one.

``truncation_direction``
    TEI aborts its process on a value that it does not know. So the top-level fields of a request
    that can have it are walked on the way, and since the last octets go out only when the walk has
    come to its end, a message that is refused is never completed at the backend.

Faithfulness
    As protobuf does it, repeated occurrences of a message field are merged, which for encoded
    messages is concatenation, and unknown fields of the envelope are dropped. Every octet inside
    ``request`` is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from struct import Struct
from typing import NamedTuple

from tei_manager.grpc.methods import Shape
from tei_manager.grpc.status import Code, StatusError
from tei_manager.wire import messages
from tei_manager.wire.fields import (
    LENGTH,
    MAX_FIELDS,
    CutShort,
    MalformedMessage,
    VarintScan,
    has_more_fields,
    most_fields,
    read_fields,
    read_head,
)
from tei_manager.wire.target import read_target

TARGET = 1
REQUEST = 2

DIRECTIONS = range(2)
"""The values of ``truncation_direction`` that TEI survives: 0 is right, 1 is left."""

HELD_LIMIT = 4 << 20
"""Octets of a message that is held whole: TEI's own limit for a request."""

EMPTY = messages.frame(b"")
"""An empty message with its prefix: what a method without a request sends to its backend."""

_PREFIX = Struct(">BI")


class _State(Enum):
    PREFIX = 0  # between messages, or inside a prefix
    HEAD = 1  # gathering octets until they tell the layout
    WHOLE = 2  # gathering the whole message
    CUT = 3  # forwarding a request as it comes


class Start(NamedTuple):
    """A message has begun and its target is known; None where it has none."""

    target: bytes | None


def split_canonical(
    data: bytes, direction_field: int, *, wrapped: bool = True
) -> tuple[bytes, bytes] | None:
    """Return (target, request with its prefix) of a message in the one common form, else None.

    That form is ``0a len target 12 len request``, uncompressed, whole, with nothing behind it;
    a request whose fields have numbers below 16 and end where it ends. None means only "not here":
    `RequestReader` finds out whether the octets are another form or an error.

    One function without helpers: it runs for nearly every message, and each call into another
    Python function would cost a tenth of it.

    Args:
        data: A chunk of the stream, at a message boundary.
        direction_field: Number of ``truncation_direction`` in the request; 0 if it has none, and
            then its fields are not looked at.
        wrapped: Whether there is an envelope; without one the request goes on as it came.
    """
    size = len(data)
    if size < 9 or _PREFIX.unpack_from(data) != (0, size - 5):
        return None
    try:
        if wrapped:
            stop = 7 + data[6]
            if data[5] != 0x0A or stop > 0x86 or data[stop] != 0x12:
                return None
            length = data[stop + 1]
            start = stop + 2
            if length >= 0x80:  # two octets, or three
                length += (data[start] << 7) - 0x80
                start += 1
                if length >= 0x4000:
                    length += (data[start] << 14) - 0x4000
                    start += 1
            # Three octets say less than 2^21 if the last has no continuation bit.
            if start + length != size or length >= 0x20_0000:
                return None
        else:
            start = 5
        pos = start if direction_field else size
        while pos < size:
            tag = data[pos]
            octet = data[pos + 1]
            pos += 2
            if tag & 7 == LENGTH:
                if octet >= 0x80:
                    octet += (data[pos] << 7) - 0x80
                    pos += 1
                    if octet >= 0x4000:
                        octet += (data[pos] << 14) - 0x4000
                        pos += 1
                        if octet >= 0x20_0000:
                            return None
                pos += octet
            elif octet >= 0x80:  # a number of two octets, such as most ``dimensions``
                if data[pos] >= 0x80 or tag >> 3 == direction_field:
                    return None
                pos += 1
            elif octet > 1 and tag >> 3 == direction_field:
                return None
            if tag < 8 or tag >= 0x80 or tag & 5:  # tag & 5: neither VARINT nor LENGTH
                return None
    except IndexError:
        return None
    if pos != size:
        return None
    return (data[7:stop], _PREFIX.pack(0, length) + data[start:]) if wrapped else (b"", data)


class RequestReader:
    """Cuts the request messages of one call, whatever their form and wherever chunks end.

    Args:
        rpc_name: Named in errors.
        shape: What messages are: ``{target, request}``; ``{target}``, for which `EMPTY` is
            forwarded; or the request itself, as clients of TEI send it.
        direction_field: Number of ``truncation_direction`` in the request, 0 if it has none.
        max_message_bytes: The longest message that is taken.
        held_limit: The longest message that is held whole.
        encoding: The call's ``grpc-encoding``.

    Attributes:
        messages: How many messages have begun.
    """

    __slots__ = (
        "_compressed",
        "_direction_field",
        "_encoding",
        "_held",
        "_held_limit",
        "_lead",
        "_left",
        "_max",
        "_rpc",
        "_scan",
        "_shape",
        "_size",
        "_state",
        "messages",
    )

    def __init__(
        self,
        rpc_name: str,
        shape: Shape,
        direction_field: int,
        max_message_bytes: int,
        held_limit: int = HELD_LIMIT,
        encoding: bytes = messages.IDENTITY,
    ) -> None:
        self._rpc = rpc_name
        self._shape = shape
        self._direction_field = direction_field
        self._max = max_message_bytes
        self._held_limit = held_limit
        self._encoding = encoding
        self.messages = 0
        self._state = _State.PREFIX
        self._held = bytearray()
        self._size = 0  # of the message, without its prefix
        self._left = 0  # of that, what has not come yet
        self._compressed = False
        self._scan: VarintScan | None = None
        self._lead = b""

    @property
    def at_boundary(self) -> bool:
        """Whether the stream may end here: False inside a message."""
        return self._state is _State.PREFIX and not self._held

    @property
    def held(self) -> int:
        """Octets held now."""
        return len(self._held)

    def passes(self, octets: int) -> bool:
        """Take so many octets without a look at them: the middle of a text that is cut through.

        Returns:
            Whether that is what they are, and all of them are to be forwarded; else `feed` them.
        """
        if self._state is not _State.CUT or not 0 < octets < self._left or self._lead:
            return False
        if self._scan is not None and not self._scan.passes(octets):
            return False
        self._left -= octets
        return True

    def feed(self, data: bytes) -> Iterator[Start | bytes]:
        """Yield what these octets complete: a `Start` for each message, then what to forward.

        The generator must be run to its end; what it has not yielded yet has not been read.

        Raises:
            StatusError: INVALID_ARGUMENT for a message that is malformed, has no request, or has
                a direction that TEI dies of; RESOURCE_EXHAUSTED for one that is too long; else as
                `messages.read_prefix` and `messages.inflate`. The call is over, and the last
                octets of the message that is at fault were not yielded.
        """
        pos = 0
        try:
            while pos < len(data):
                if self._state is _State.PREFIX:
                    pos += self._read_prefix(data[pos : pos + 5 - len(self._held)])
                    if self._state is _State.PREFIX:
                        return
                piece = data[pos : pos + self._left]
                pos += len(piece)
                self._left -= len(piece)
                yield from self._pass(piece) if self._state is _State.CUT else self._hold(piece)
                if self._left == 0:
                    self._state = _State.PREFIX
        except MalformedMessage as error:
            raise self._refuse(f"malformed message {error}") from None

    def _read_prefix(self, octets: bytes) -> int:
        """Take octets of a prefix; once it is whole, the message has begun."""
        self._held += octets
        if len(self._held) == messages.PREFIX_SIZE:
            prefix = bytes(self._held)
            self._compressed, self._size = messages.read_prefix(prefix, self._encoding, self._max)
            self._held.clear()
            self._left = self._size
            self.messages += 1
            self._state = _State.HEAD
            if self._compressed or self._shape is Shape.TARGET_ONLY:
                self._hold_whole()
        return len(octets)

    def _hold_whole(self) -> None:
        """Wait for the whole message, if it is not too long for that."""
        if self._size > self._held_limit:
            raise messages.too_long(self._size, self._held_limit)
        self._state = _State.WHOLE

    def _hold(self, piece: bytes) -> Iterator[Start | bytes]:
        """Add to what is held, until it tells that the rest can be cut through, or is whole."""
        self._held += piece
        head = self._find_head() if self._state is _State.HEAD else None
        if head is not None:
            yield from self._cut_through(*head)
        elif self._left == 0:
            message = bytes(self._held)
            self._held.clear()
            yield from self._split(message)

    def _find_head(self) -> tuple[bytes | None, int] | None:
        """Return the target and where the request begins if this message can be cut through.

        None means not yet, or, when the state has become `WHOLE`, never.
        """
        held = self._held
        if self._shape is Shape.PLAIN:
            return None, 0
        try:
            number, kind, length, start = read_head(held, 0)
            stop = start + length
            if (number, kind) == (TARGET, LENGTH) and stop < self._size:
                if stop > self._held_limit:
                    raise messages.too_long(stop, self._held_limit)
                number, kind, length, begin = read_head(held, stop)
                if (number, kind) == (REQUEST, LENGTH) and begin + length == self._size:
                    target = bytes(held[start:stop])
                    self._limit_fields(target, MAX_FIELDS)
                    return target, begin
        except CutShort:
            if self._left:
                return None
        self._hold_whole()
        return None

    def _cut_through(self, target: bytes | None, begin: int) -> Iterator[Start | bytes]:
        """Start a message whose request goes on as it comes."""
        first = bytes(self._held[begin:])
        self._held.clear()
        self._state = _State.CUT
        self._lead = _PREFIX.pack(0, self._size - begin)
        if self._direction_field:
            self._scan = VarintScan(self._direction_field, DIRECTIONS)
        yield Start(target)
        yield from self._pass(first)

    def _pass(self, piece: bytes) -> Iterator[bytes]:
        """Forward a piece of a request, the last one only if the request is sound."""
        if self._scan is not None:
            self._check(self._scan, piece)
            if self._left == 0:
                self._scan.finish()
        if self._lead:
            piece, self._lead = self._lead + piece, b""
        yield piece

    def _split(self, message: bytes) -> Iterator[Start | bytes]:
        """Forward a message that is here as a whole, in whatever form."""
        most = most_fields(len(message))
        if self._compressed:
            message = messages.inflate(message, self._encoding, min(self._max, self._held_limit))
        if not (plain := self._shape is Shape.PLAIN):
            self._limit_fields(message, most)
        targets, requests = ([], [message]) if plain else _parts(message)
        self._limit_fields(b"".join(targets), most)
        yield Start(b"".join(targets) if targets else None)
        if self._shape is Shape.TARGET_ONLY:
            yield EMPTY
        elif not requests:
            raise self._refuse(f"field {REQUEST}, the request, is missing")
        else:
            request = b"".join(requests)
            if self._direction_field:
                self._limit_fields(request, most)
                self._check_whole(requests)
            yield messages.frame(request)

    def _check(self, scan: VarintScan, piece: bytes) -> None:
        """Walk a piece of a request and refuse a direction that TEI does not know."""
        bad = scan.feed(piece)
        if bad is not None:
            what = f"truncation_direction {bad} does not exist; use 0 (right) or 1 (left)"
            raise self._refuse(what)

    def _refuse(self, what: str) -> StatusError:
        return StatusError(Code.INVALID_ARGUMENT, f"{self._rpc}: {what}")

    def _limit_fields(self, data: bytes, most: int) -> None:
        """Refuse a message with too many fields, before anything is done with each of them."""
        if has_more_fields(data, most):
            text = f"{self._rpc}: message with more than {most} fields; send it in parts"
            raise StatusError(Code.RESOURCE_EXHAUSTED, text)

    def _check_whole(self, requests: list[bytes]) -> None:
        """Walk each occurrence by itself: two broken ones can make a sound one when merged."""
        for request in requests:
            scan = VarintScan(self._direction_field, DIRECTIONS)
            self._check(scan, request)
            scan.finish()


def _parts(message: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return all occurrences of the target and of the request."""
    targets: list[bytes] = []
    requests: list[bytes] = []
    for number, kind, value in read_fields(message):
        if kind == LENGTH and number <= REQUEST and isinstance(value, bytes):
            (targets if number == TARGET else requests).append(value)
    if len(targets) > 1:
        for target in targets:  # each must be sound by itself, see `_check_whole`
            read_target(target)
    return targets, requests
