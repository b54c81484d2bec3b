r"""gRPC's length-prefixed messages: the five-octet prefix, the compressed flag, and inflating.

A prefix is judged as soon as it is whole, before anything behind it is held. An inflated message
costs at most its limit and one step of 64 KiB before it is refused, whatever it would grow to.
"""

from __future__ import annotations

import zlib
from struct import Struct
from sys import maxsize

from tei_manager.grpc.status import Code, StatusError

PREFIX_SIZE = 5

IDENTITY = b"identity"

ACCEPTED = b"identity,deflate,gzip"
"""Value of ``grpc-accept-encoding``: what `inflate` can read."""

# zlib's window bits: 16 more asks for the gzip format. "deflate" is the zlib format, not the raw
# one (gRPC's compression.md).
_WINDOW_BITS = {b"gzip": zlib.MAX_WBITS | 16, b"deflate": zlib.MAX_WBITS}

# An input step bounds what zlib copies as unconsumed, an output step what a bomb costs over its
# limit.
_INPUT_STEP = 16_384
_OUTPUT_STEP = 65_536

_PREFIX = Struct(">BI")
_length = Struct(">I").unpack_from


def frame(message: bytes) -> bytes:
    """Return an uncompressed message with its prefix."""
    return _PREFIX.pack(0, len(message)) + message


def prefix(size: int) -> bytes:
    """Return the prefix of an uncompressed message of ``size`` octets."""
    return _PREFIX.pack(0, size)


def whole_size(data: bytes, pos: int) -> int:
    """Return how long the message at ``pos`` is with its prefix, which must be whole."""
    size: int = PREFIX_SIZE + _length(data, pos + 1)[0]
    return size


def read_prefix(prefix: bytes, encoding: bytes, max_message_bytes: int) -> tuple[bool, int]:
    """Judge a prefix of five octets and return (compressed, length of what follows).

    Args:
        prefix: Five octets.
        encoding: The call's ``grpc-encoding``, `IDENTITY` where it has none.
        max_message_bytes: The longest message that is taken.

    Raises:
        StatusError: RESOURCE_EXHAUSTED for a length over the limit, INTERNAL for a flag that does
            not exist or that the encoding does not go with, UNIMPLEMENTED for an encoding that we
            cannot read (each as gRPC's compression.md asks). Nothing was held.
    """
    flag, length = _PREFIX.unpack(prefix)
    if length > max_message_bytes:
        raise too_long(length, max_message_bytes)
    if flag == 0:
        return False, length
    if flag > 1:
        raise StatusError(Code.INTERNAL, f"message flag {flag} does not exist")
    if encoding == IDENTITY or not encoding:
        raise StatusError(Code.INTERNAL, "message is compressed but the call has no grpc-encoding")
    if encoding not in _WINDOW_BITS:
        shown = encoding[:32].decode("latin-1")
        raise StatusError(
            Code.UNIMPLEMENTED, f"grpc-encoding '{shown}' is not supported; use gzip or deflate"
        )
    return True, length


def too_long(size: int, limit: int) -> StatusError:
    """Return the error for a message of ``size`` octets where ``limit`` are taken."""
    message = f"message of {size} bytes is larger than the limit of {limit} bytes"
    return StatusError(Code.RESOURCE_EXHAUSTED, message)


def inflate(data: bytes, encoding: bytes, limit: int) -> bytes:
    """Return a compressed message in its plain form.

    Args:
        data: The whole compressed message, without its prefix.
        encoding: ``gzip`` or ``deflate``; `read_prefix` has refused all others.
        limit: The longest plain message that is taken.

    Raises:
        StatusError: RESOURCE_EXHAUSTED over the limit; INTERNAL if the data is not exactly one
            compressed stream, whole and with nothing behind it, as gRPC's C core holds it too.
    """
    inflater = zlib.decompressobj(_WINDOW_BITS[encoding])
    pieces: list[bytes] = []
    size, rest, fed = 0, b"", 0
    try:
        while not inflater.eof:
            rest = rest or data[fed : (fed := fed + _INPUT_STEP)]
            piece = inflater.decompress(rest, _OUTPUT_STEP)
            if not (rest or piece):
                raise _not_compressed(encoding, "it is cut short")
            rest = inflater.unconsumed_tail
            size += len(piece)
            if size > limit:
                raise _bomb(len(data), limit)
            pieces.append(piece)
    except zlib.error as error:
        raise _not_compressed(encoding, str(error)) from None
    if inflater.unused_data or fed < len(data):
        raise _not_compressed(encoding, "there is more behind its end")
    return b"".join(pieces)


def _bomb(size: int, limit: int) -> StatusError:
    message = f"message of {size} bytes inflates to more than the limit of {limit} bytes"
    return StatusError(Code.RESOURCE_EXHAUSTED, message)


def _not_compressed(encoding: bytes, why: str) -> StatusError:
    return StatusError(Code.INTERNAL, f"message is not {encoding.decode()}: {why}")


class MessageCounter:
    """Counts the messages of a stream of octets by their prefixes, and holds none of them.

    ``count`` is how many have begun. Nothing is judged here: whoever reads them does that.
    """

    __slots__ = ("_left", "_prefix", "count")

    def __init__(self) -> None:
        self.count = 0
        self._left = 0  # octets of the last message that have not come yet; -1: unknown
        self._prefix = b""  # of the last message, while it is cut

    def feed(self, data: bytes | bytearray, most: int = maxsize) -> int:
        """Count on, and return how many of these octets are of messages that are counted.

        Args:
            data: The next octets of the stream.
            most: How many messages may begin here; octets behind them are not taken, and come
                again at the beginning of the next ``data``.
        """
        size = len(data)
        if not self._left and most > 0 and size >= PREFIX_SIZE and _length(data, 1)[0] == size - 5:
            self.count += 1  # nearly every chunk is one whole message
            return size
        if not self._left and size > 3 * PREFIX_SIZE and (count := _alike(data, size, most)):
            self.count += count
            return size
        pos = self._end_of_prefix(data) if self._left < 0 else self._left
        count, last = 0, size - PREFIX_SIZE  # where the last whole prefix can be
        while pos <= last and count < most:
            pos += 5 + _length(data, pos + 1)[0]
            count += 1
        if last < pos < size and count < most:
            count += 1
            self._prefix = bytes(data[pos:])
            self._left, pos = -1, size
        elif self._left >= 0:
            self._left = max(0, pos - size)
        self.count += count
        return min(pos, size)

    def _end_of_prefix(self, data: bytes | bytearray) -> int:
        """Go on with a prefix that was cut; return where its message ends, or what was taken."""
        missing = PREFIX_SIZE - len(self._prefix)
        self._prefix += data[:missing]
        if len(self._prefix) < PREFIX_SIZE:
            return len(data)
        length: int = _length(self._prefix, 1)[0]
        self._left, self._prefix = 0, b""
        return missing + length


def _alike(data: bytes | bytearray, size: int, most: int) -> int:
    """Return how many messages the octets are if all are whole and say one length, else 0.

    More than ``most`` are not looked at: of what is held, one at a time is counted.
    """
    step = PREFIX_SIZE + _length(data, 1)[0]
    count, rest = divmod(size, step)
    if (
        not rest
        and count <= most
        and data[1::step] == data[1:2] * count
        and data[2::step] == data[2:3] * count
        and data[3::step] == data[3:4] * count
        and data[4::step] == data[4:5] * count
    ):
        return int(count)
    return 0


class MessageReader:
    """Cuts a stream of octets into whole messages.

    Args:
        max_message_bytes: The longest message that is taken, compressed or plain.
        encoding: The call's ``grpc-encoding``.
    """

    __slots__ = ("_encoding", "_held", "_max")

    def __init__(self, max_message_bytes: int, encoding: bytes = IDENTITY) -> None:
        self._max = max_message_bytes
        self._encoding = encoding
        self._held = bytearray()

    @property
    def at_boundary(self) -> bool:
        """Whether a call may end here: False inside a message."""
        return not self._held

    @property
    def held(self) -> int:
        """Octets held now."""
        return len(self._held)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that these octets complete, each in its plain form.

        Raises:
            StatusError: As `read_prefix` and `inflate` raise it. The call is over.
        """
        held = self._held
        held += data
        messages: list[bytes] = []
        pos = 0
        while len(held) - pos >= PREFIX_SIZE:
            start = pos + PREFIX_SIZE
            compressed, length = read_prefix(bytes(held[pos:start]), self._encoding, self._max)
            if len(held) < start + length:
                break
            pos = start + length
            message = bytes(held[start:pos])
            messages.append(inflate(message, self._encoding, self._max) if compressed else message)
        del held[:pos]
        return messages
