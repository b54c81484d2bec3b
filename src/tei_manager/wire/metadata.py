r"""Metadata: what may stand in a header field, which fields travel, and ``grpc-timeout``.

All of it runs for every field of every call, so each check is one or two calls into C, and names,
of which callers use few, are remembered. A field that passes may stand on a connection that other
callers share, so the checks are as strict as the strictest receiver known: some HTTP/2 servers
answer a control octet, some gRPC servers a broken base64 text (CVE-2023-32732), by closing the
whole connection.
"""

from __future__ import annotations

import re

from tei_manager.grpc.status import Code, StatusError

CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""Names that make a request malformed, and that never travel (RFC 9113 8.2.2)."""

DROPPED_FROM_REQUESTS = frozenset(
    (
        b"te",  # of this hop; the switch writes its own
        b"host",  # the backend gets an :authority of its own
        b"content-length",  # messages are unwrapped, so it would be wrong
        b"authorization",  # callers' credentials are for us, never for a backend
        b"proxy-authorization",
        b"cookie",
        b"x-tei-instance",
        b"x-tei-model",
        b"x-tei-index",
        b"grpc-timeout",  # written anew, less the time spent
        b"grpc-encoding",  # messages go on unpacked
        b"grpc-accept-encoding",  # answers come back plain
    )
)
"""Names that stay behind on the way to a backend, beside `CONNECTION_SPECIFIC`."""

DROPPED_FROM_RESPONSES = frozenset(
    (
        b"te",
        b"host",
        b"content-length",  # the client counts messages, not octets
        b"authorization",  # a backend's credentials never reach a client
        b"set-cookie",
        b"grpc-accept-encoding",  # what the backend can unpack; we unpack for it
    )
)
"""Names that stay behind on the way to a client, beside `CONNECTION_SPECIFIC`."""

OF_MESSAGES = frozenset((b"content-type", b"grpc-encoding", b"grpc-accept-encoding"))
"""Names that say how messages are coded. They travel where messages travel as they came."""

GRPC = b"application/grpc"
"""gRPC's content type; a suffix says how messages are coded, which is nothing to us."""

# A token of RFC 9110 5.6.2 without capital letters (RFC 9113 8.2.1).
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_MEMO_ENTRIES = 1024  # names that callers use; more are an attack, which costs it only time
_MEMO_NAME = 64
_valid_names: set[bytes] = set()

# RFC 9113 8.2.1 forbids NUL, CR and LF; RFC 9110 5.5 all control octets but the tab, and so does
# the ``http`` crate below TEI.
_CONTROLS = bytes({*range(0x20), 0x7F} - {0x09})

_DIGIT = rb"[A-Za-z0-9+/]"
_BASE64 = rb"(?:D{4})*(?:D[AQgw](?:==)?|D{2}[AEIMQUYcgkosw048]=?)?".replace(b"D", _DIGIT)
_BINARY = re.compile(rb"%b(?:,%b)*" % (_BASE64, _BASE64))

_TIMEOUT = re.compile(rb"[0-9]{1,8}[HMSmun]")

# Units of grpc-timeout, coarse to fine, as seconds or as parts of one: both are whole numbers, so
# that only one rounding stands between the text and the float.
_SECONDS = {ord("H"): 3600, ord("M"): 60, ord("S"): 1}
_PARTS = {ord("m"): 10**3, ord("u"): 10**6, ord("n"): 10**9}
_MOST_DIGITS = 10**8  # the first number that no longer fits (gRPC over HTTP/2, "TimeoutValue")


def valid_name(name: bytes) -> bool:
    """Return whether this may be the name of a field that is no pseudo-header field."""
    if name in _valid_names:
        return True
    if _NAME.fullmatch(name) is None:
        return False
    if len(name) <= _MEMO_NAME:
        if len(_valid_names) >= _MEMO_ENTRIES:
            _valid_names.clear()
        _valid_names.add(name)
    return True


def valid_value(value: bytes) -> bool:
    """Return whether this may be a field's value: no control octets, no white space around it."""
    return value.translate(None, _CONTROLS) == value == value.strip(b" \t")


def valid_binary(value: bytes) -> bool:
    """Return whether this may be the value of a ``-bin`` field.

    That is base64 (RFC 4648 4), padded or not, or a list of such with commas between; bits behind
    the last octet must be zero, as every encoder leaves them and the C core of gRPC demands.
    """
    return _BINARY.fullmatch(value) is not None


def is_grpc(content_type: bytes) -> bool:
    """Return whether a content type is gRPC's: alone, or with ``+…`` or ``;…`` behind it."""
    return content_type == GRPC or content_type.startswith((GRPC + b"+", GRPC + b";"))


def parse_timeout(value: bytes) -> float:
    """Return the seconds that a ``grpc-timeout`` means.

    Raises:
        StatusError: It is none: INVALID_ARGUMENT, since it is the caller's mistake and not ours,
            and since guessing "no deadline" would let the call run for longer than was meant.
    """
    if _TIMEOUT.fullmatch(value) is None:
        shown = value[:32].decode("latin-1")
        raise StatusError(
            Code.INVALID_ARGUMENT,
            f"grpc-timeout '{shown}' is not one to eight digits and one of H, M, S, m, u, n",
        )
    amount, unit = int(value[:-1]), value[-1]
    parts = _PARTS.get(unit)
    return amount / parts if parts else float(amount * _SECONDS[unit])


def format_timeout(seconds: float) -> bytes:
    """Return a ``grpc-timeout`` no longer than ``seconds``, in the finest unit that it fits.

    What is below a nanosecond, or already past, is ``1n``: zero would mean the same and some peers
    refuse it. What is above 11,415 years is the longest timeout that can be written.
    """
    for unit, parts in reversed(_PARTS.items()):
        if seconds * parts < _MOST_DIGITS:
            amount = int(seconds * parts)
            amount -= amount / parts > seconds  # the product may have been rounded up
            return b"%d%c" % (max(amount, 1), unit)
    for unit, whole in reversed(_SECONDS.items()):
        if seconds < _MOST_DIGITS * whole:
            return b"%d%c" % (seconds // whole, unit)
    return b"99999999H"
