"""Requests of one stream that stand behind each other in a chunk, cut from their envelopes as one.

Theory
    In nearly every message of a stream all octets but those of the text follow from its length and
    from what the call has in common: the prefix, the target, the request's own length, and the
    length of its first field, the text. So they are remembered by the prefix, and a message is one
    look and two comparisons. What stands behind the text (``truncate``, ``normalize``) is that of
    the message before, which was walked. Anything else is `split_canonical`'s, to the same effect.
"""

from __future__ import annotations

from functools import lru_cache

from tei_manager.wire import messages
from tei_manager.wire.envelope import split_canonical
from tei_manager.wire.fields import LENGTH, MalformedMessage, read_head

KINDS, LEADS = 32, 128
"""Of how many targets beginnings are remembered, and how many of each: some 300 octets each."""

_TEXT, _TARGET, _REQUEST = b"\x0a", b"\x0a", b"\x12"
"""Tags: the first field of a request, and the two of an envelope."""

_MOST = 0x20_0000
"""`split_canonical` takes requests, and texts, that are shorter than that."""


def split_run(
    data: bytes, direction_field: int, target: bytes | None, *, wrapped: bool = True
) -> tuple[int, bytes] | None:
    """Return how many messages a chunk has and their requests, if all are whole and canonical.

    Args:
        data: A chunk of the stream, at a message boundary.
        direction_field: As in `split_canonical`.
        target: What every message has for a target; None for `split_canonical`'s ``b""``.
        wrapped: As in `split_canonical`.
    """
    pieces: list[bytes] = []
    wanted, behind, back = target or b"", b"", 0
    leads = leads_of(wanted, 0, wrapped)
    pos, size, count = 0, len(data), 0
    while pos < size:
        count += 1
        lead = leads[data[pos : pos + 5]]
        if lead is not None:
            received, sent, text, length = lead
            end = pos + length
            if (
                end <= size
                and data.startswith(received, pos)
                and (not back or data.endswith(behind, pos, end))
            ):
                pieces += (sent, data[pos + text : end])
                pos = end
                continue
        if pos + messages.PREFIX_SIZE > size:
            return None
        end = pos + messages.whole_size(data, pos)
        whole = split_canonical(data[pos:end], direction_field, wrapped=wrapped)
        if whole is None or whole[0] != wanted:
            return None
        pieces.append(whole[1])
        behind = _behind_text(whole[1])
        back, pos = len(behind), end
        leads = leads_of(wanted, back, wrapped)
    return (count, b"".join(pieces)) if count else None


Lead = tuple[bytes, bytes, int, int]
"""Of a message that is of the common kind: its octets up to the text, those that the instance gets
in their place, where the text begins, and where the message ends."""


class Leads(dict[bytes, Lead | None]):
    """How messages of the common kind begin, by their first five octets; made when asked for.

    Args:
        target: What they name, encoded.
        behind: Octets that follow their text.
        wrapped: Whether there is an envelope.
    """

    def __init__(self, target: bytes, behind: int, wrapped: bool) -> None:
        super().__init__()
        self._target, self._behind, self._wrapped = target, behind, wrapped

    def __missing__(self, prefix: bytes) -> Lead | None:
        if len(self) >= LEADS:
            self.clear()
        lead = self[prefix] = _lead(prefix, self._target, self._behind, self._wrapped)
        return lead


leads_of = lru_cache(KINDS)(Leads)


def _lead(prefix: bytes, target: bytes, behind: int, wrapped: bool) -> Lead | None:
    if len(prefix) < messages.PREFIX_SIZE or prefix[0] or len(target) >= 0x80:
        return None
    size = int.from_bytes(prefix[1:], "big")
    envelope = _TARGET + bytes((len(target),)) + target + _REQUEST if wrapped else b""
    length = _rest(size - len(envelope)) if wrapped else size
    text = _rest(length - len(_TEXT) - behind)
    if text < 0:
        return None
    begin = _TEXT + _varint(text)
    sent = messages.prefix(length) + begin
    received = prefix + envelope + _varint(length) + begin if wrapped else sent
    return received, sent, len(received), messages.PREFIX_SIZE + size


def _rest(size: int) -> int:
    """Return what a length can say if it and what it counts are ``size`` octets; -1 if nothing."""
    for octets in (1, 2, 3):
        rest = size - octets
        if 0 <= rest < _MOST and len(_varint(rest)) == octets:
            return rest
    return -1


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number >= 0x80:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


def _behind_text(request: bytes) -> bytes:
    """Return what stands behind the text of a framed request; nothing if none begins it."""
    try:
        number, kind, size, start = read_head(request, messages.PREFIX_SIZE)
    except MalformedMessage:
        return b""
    return request[start + size :] if (number, kind) == (1, LENGTH) else b""
