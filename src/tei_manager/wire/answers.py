"""What an instance answers: response heads, trailers, and the common answer known at a look.

Theory
    Of an answer only the status matters here, and the fields that must not travel. Nearly all of
    its fields have one of a few hundred wire forms (TEI's timings are milliseconds), which are
    remembered once they were found sound. A block that is ``:status: 200`` and known forms travels
    as it stands: nothing of it is decoded. Cut at its zeros it falls into parts that are mostly
    known as well, so that the common case is one cut and one question to a set.
"""

from __future__ import annotations

import re
from itertools import pairwise
from operator import or_

from tei_manager.grpc.status import Code
from tei_manager.wire import hpack, metadata
from tei_manager.wire.headers import Fields, HeadReader, malformed


class ResponseHead:
    """What a response's header block or trailers say.

    ``status`` is the HTTP status, 0 in trailers; ``grpc_status`` is None where there is none, and
    ``content_type`` is empty. ``opaque`` has what travels only in an answer whose question went as
    it came: which encodings the instance can unpack.
    """

    __slots__ = ("content_type", "forward", "grpc_status", "opaque", "status")

    # Requests alone are held to their content-length; a response's body is gRPC's own business.
    content_length = -1

    def __init__(self) -> None:
        self.status = 0
        self.content_type = b""
        self.grpc_status: int | None = None
        self.forward = b""
        self.opaque = b""

    @property
    def is_grpc(self) -> bool:
        """Whether it is the beginning of a gRPC answer."""
        return self.status == 200 and metadata.is_grpc(self.content_type)


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
        malformed("a response begins with :status")
    head.status = int(rest[0][1])
    _read_answer(head, rest[1:])
    return head


def read_response_trailers(fields: Fields) -> ResponseHead:
    """Read the trailers of a response.

    Raises:
        StreamError: They are malformed.
    """
    head = ResponseHead()
    _read_answer(head, fields)
    return head


# Wire forms of fields that were found sound and travel without being looked at. Each says itself
# how long it is, so a block that is a row of them reads as just these fields.
_PLAIN: set[bytes] = set()
_PLAIN_ENTRIES = 4096
_PLAIN_OCTETS = 64

# Those of them that say that an answer is gRPC's. Without one it is not taken for an answer.
_TYPES: set[bytes] = set()

# Bounds for answers that are recognised: decoded, such a block has at most 8/5 of its octets and 32
# for each field, which is well below the limits of `hpack.Decoder`.
_KNOWN_OCTETS = 2048
_KNOWN_FIELDS = 100

# Blocks cut at their zeros. A field whose name is spelled out begins with one, so if no other octet
# of a block is zero, each part is such a field, and with it the next one if that has its name from
# the static table. Parts of such blocks make a row of known fields in whatever order they come. The
# first part has the content type, or is not remembered.
_FIRST_PARTS: set[bytes] = set()
_PARTS: set[bytes] = set()
_FIELDS_OF_PART = 2


def is_plain_answer(block: bytes) -> bool:
    """Say whether a block is ``:status: 200`` and then gRPC's fields that are known to travel.

    None of them touches the dynamic table. True is certain, False means only "look closer".
    """
    first, *parts = block.split(b"\0")
    if first in _FIRST_PARTS and _PARTS.issuperset(parts):
        return len(parts) < _KNOWN_FIELDS // _FIELDS_OF_PART and len(block) <= _KNOWN_OCTETS
    ends = _divide(block)
    if ends is None or _TYPES.isdisjoint(block[a:b] for a, b in pairwise(ends)):
        return False
    named = [block[start] == 0 for start in ends[:-1]]
    begins_so = not named[0] and block[1 : ends[1]] in _TYPES
    if begins_so and sum(named) == len(parts) and all(map(or_, named, named[1:])):
        if len(_FIRST_PARTS) + len(_PARTS) >= _PLAIN_ENTRIES:
            _FIRST_PARTS.clear()
            _PARTS.clear()
        _FIRST_PARTS.add(first)
        _PARTS.update(parts)
    return True


def recognise_answer(block: bytes) -> ResponseHead | None:
    """Return what `read_response` gives for an answer that begins as nearly all do, else None."""
    if not is_plain_answer(block):
        return None
    head = ResponseHead()
    head.status = 200
    head.content_type = metadata.GRPC  # whatever it has behind that
    head.forward = block[1:]
    return head


def _divide(block: bytes) -> list[int] | None:
    """Return where the fields behind the status begin and end, if all of them are known."""
    end = len(block)
    if block[:1] != hpack.STATUS_200 or end > _KNOWN_OCTETS:
        return None
    known, pos, ends = _PLAIN, 1, [1]
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
            ends.append(pos)
    except IndexError:
        return None
    return ends if len(ends) <= _KNOWN_FIELDS else None


def _read_answer(head: ResponseHead, fields: Fields) -> None:
    travels: list[bytes] = []
    for name, value, wire in fields:
        if wire in _PLAIN or _read_answer_field(head, name, value, wire):
            travels.append(wire)
        elif name == b"grpc-accept-encoding":
            head.opaque += wire
        if name == b"content-type":
            head.content_type = value
    head.forward = b"".join(travels)


def _read_answer_field(head: ResponseHead, name: bytes, value: bytes, wire: bytes) -> bool:
    """Read one field and say whether it travels."""
    if not metadata.valid_name(name) or not metadata.valid_value(value):
        malformed(f"field {name[:64]!r} has characters that it must not have")
    if name[-4:] == b"-bin" and not metadata.valid_binary(value):
        malformed(f"metadata '{name[:64].decode()}' is not base64")
    if name in _RESPONSE_DROPPED:
        return False
    if name == b"grpc-status":
        small = value.isdigit() and len(value) <= 10
        head.grpc_status = int(value) if small else int(Code.UNKNOWN)
    elif len(wire) <= _PLAIN_OCTETS:
        _remember(name, value, wire)
    return True


def _remember(name: bytes, value: bytes, wire: bytes) -> None:
    """Take a sound field for known, save a content type that makes an answer none of gRPC's."""
    if len(_PLAIN) >= _PLAIN_ENTRIES:
        _PLAIN.clear()
        _TYPES.clear()
    if name == b"content-type":
        if not metadata.is_grpc(value):
            return
        _TYPES.add(wire)
    _PLAIN.add(wire)


def client_heads() -> HeadReader:
    """Return a reader for a connection that we opened to an instance."""
    return HeadReader(read_response, read_response_trailers, recognise_answer)
