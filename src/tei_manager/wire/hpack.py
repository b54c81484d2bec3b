r"""HPACK (RFC 7541): a decoder that also transcodes, and literals that need no encoder state.

Theory
    A proxy mostly carries header fields from one connection to another. So the decoder gives for
    each field, beside name and value, its *wire* form: a representation that needs no dynamic table
    and can stand in any block of any connection. The string octets of a literal are copied into it
    as they came, Huffman-coded or not, once they have proven to decode; names of the static table
    are written as its index, and a full match there is its own wire form. An entry of the dynamic
    table keeps its wire form beside it, so an indexed field costs two look-ups.

Rules of this file
    1. Bytes end in fields, in `HpackError` (the tables differ now: COMPRESSION_ERROR ends the
       connection) or in `HeaderListTooLarge` (they do not: only the stream ends). Any other
       exception is a bug here.
    2. A block is decoded to its end, also past a limit, so that the table stays in step with the
       peer's (CVE-2024-7246 is what happens otherwise).
    3. What a block can make us hold is bounded by its own length: an indexed field is a reference,
       a literal at most as long as its octets (8/5 of them when Huffman-coded). The limits of a
       list are checked at its end; a field counts name + value + 32 octets (RFC 7541 4.1).
    4. Only octets that every decoder must take are copied. A string's length may be written in
       more octets than it needs, which some decoders refuse; a backend's connection is shared, so
       such a length is written anew.
    5. A never-indexed literal stays one in its wire form (RFC 7541 6.2.3) and enters no memo.

Memory
    The table holds at most ``max_table_size / 32`` entries. A code word has up to 30 bits, so wire
    forms take up to four times what the table counts. The three memos are shared by all connections
    of the process and together stay below 5 MiB; a full one is emptied, which costs time only.

Known flaws
    A shared memo makes a short field that anyone sent lately 0.3 µs quicker to decode, which a
    patient caller on the same machine could measure. Secrets belong into never-indexed literals.
"""

from __future__ import annotations

from typing import TypeAlias

from tei_manager.wire import huffman
from tei_manager.wire.frames import ErrorCode, ProtocolError

Field: TypeAlias = tuple[bytes, bytes, bytes]
"""(name, value, wire): ``wire`` is the field as a representation that needs no dynamic table."""

# (field, size as RFC 7541 4.1 counts it, the wire form of the name with no flags set)
_Entry: TypeAlias = tuple[Field, int, bytes]

DEFAULT_TABLE_SIZE = 4096

BOMB = 4
"""How many times over the limit of its size a list ends the connection. To decode what is refused
anyway keeps the table in step, but 31,000 fields take five milliseconds (CVE-2026-49975)."""

"""Octets of dynamic table that each side starts with (RFC 9113 6.5.2)."""

_LARGEST_INTEGER = 1 << 31  # no length, index or size in HTTP/2 needs more
_MEMO_ENTRIES = 4096  # of some 250 octets; TEI's timings in milliseconds fit
# Octets of a coded string with its length: names, dates, numbers and timeouts are shorter, a
# traceparent is longer.
_MEMO_STRING = 37

_STATIC_TABLE = """
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https
:status 200|:status 204|:status 206|:status 304|:status 400|:status 404|:status 500
accept-charset|accept-encoding gzip, deflate|accept-language|accept-ranges|accept
access-control-allow-origin|age|allow|authorization|cache-control|content-disposition
content-encoding|content-language|content-length|content-location|content-range|content-type
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range
if-unmodified-since|last-modified|link|location|max-forwards|proxy-authenticate
proxy-authorization|range|referer|refresh|retry-after|server|set-cookie
strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate
"""
"""Names and values of RFC 7541 Appendix A, in order from index 1."""


class HpackError(Exception):
    """A header block broke the rules; the tables of both sides differ from here on."""


class HeaderListTooLarge(Exception):
    """A header list passed a limit; its block was decoded to the end, and the table is in step."""


def integer(value: int, prefix_bits: int, first_byte_flags: int = 0) -> bytes:
    """Return ``value`` as RFC 7541 5.1 writes it, with the flags above its prefix."""
    mask = (1 << prefix_bits) - 1
    if value < mask:
        return bytes((first_byte_flags | value,))
    out = bytearray((first_byte_flags | mask,))
    value -= mask
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name: bytes, value: bytes, never_indexed: bool = False) -> bytes:
    """Return a field as a literal that no table remembers (RFC 7541 6.2.2, or 6.2.3).

    Args:
        name: In lower case; an index where the static table has it.
        value: Written as it is: Huffman coding costs more here than it saves on loopback.
        never_indexed: Forbid every hop to index it, as secrets should be.
    """
    prefix = _STATIC_NAMES.get(name) or b"\x00" + integer(len(name), 7) + name
    if never_indexed:
        prefix = _never_indexed(prefix)
    return prefix + integer(len(value), 7) + value


def size_update(size: int) -> bytes:
    """Return a dynamic table size update; it may only stand at the start of a block."""
    return integer(size, 5, 0x20)


def _never_indexed(prefix: bytes) -> bytes:
    """Return the wire form of a name with the never-indexed flag set."""
    return bytes((prefix[0] | 0x10,)) + prefix[1:]


def _static_entries() -> dict[int, _Entry]:
    """Return the static table by index; index 0 is missing, as it means nothing."""
    entries: dict[int, _Entry] = {}
    names: dict[bytes, bytes] = {}
    rows = _STATIC_TABLE.strip().replace("\n", "|").encode().split(b"|")
    for index, row in enumerate(rows, 1):
        name, _, value = row.partition(b" ")
        prefix = names.setdefault(name, integer(index, 4))
        field = (name, value, integer(index, 7, 0x80))
        entries[index] = (field, len(name) + len(value) + 32, prefix)
    return entries


_STATIC = _static_entries()
_STATIC_NAMES = {entry[0][0]: entry[2] for entry in _STATIC.values()}

STATIC_WIRE: dict[tuple[bytes, bytes], bytes] = {
    (name, value): wire for (name, value, wire), _, _ in _STATIC.values()
}
"""Wire forms of the fields that the static table has in full: one octet each."""

STATUS_200 = STATIC_WIRE[b":status", b"200"]

# Literals as entries, by their wire form or by the octets of name and value; and names alone, as
# entries without a value. What is cut short is no key: it says itself how long it would be.
_ENTRIES: dict[bytes, _Entry] = {}
_STATELESS: dict[bytes, _Entry] = {}
_NAMES: dict[bytes, _Entry] = {}


class Decoder:
    """The decoding half of one HTTP/2 connection.

    Args:
        max_table_size: The table size that our SETTINGS allow, once the peer has acknowledged
            them. The table itself starts at `DEFAULT_TABLE_SIZE` and follows the peer's updates.
        max_list_size: Octets of one header list, each field counted as name + value + 32. 16 KiB is
            the hard limit of gRPC's C core.
        max_fields: Fields of one header list, whatever they are (CVE-2026-49975).
    """

    __slots__ = (
        "_capacity",
        "_table",
        "_used",
        "generation",
        "max_fields",
        "max_list_size",
        "max_table_size",
    )

    def __init__(
        self,
        max_table_size: int = DEFAULT_TABLE_SIZE,
        max_list_size: int = 16_384,
        max_fields: int = 100,
    ) -> None:
        self.max_table_size = max_table_size
        self.max_list_size = max_list_size
        self.max_fields = max_fields
        self.generation = 0
        """Rises whenever the table, or what it may become, has changed. A block that left it alone
        was pure: the same octets mean the same fields for as long as it stands still."""
        self._capacity = DEFAULT_TABLE_SIZE
        self._table: list[_Entry] = []  # the newest entry comes last
        self._used = 0

    def decode(self, block: bytes, pos: int = 0, listed: int = 0, count: int = 0) -> list[Field]:
        """Return the fields of one header block, in order.

        One function and no helper on the common way, because this runs for every call and a
        Python call costs as much as a field.

        Args:
            block: The whole block.
            pos: Where a field begins, if what stands before it is known.
            listed: Octets of the fields before it, each counted as name + value + 32.
            count: How many they are.

        Raises:
            HpackError: The block is malformed. The connection must end with COMPRESSION_ERROR.
            HeaderListTooLarge: A limit was passed. The connection may go on.
            ProtocolError: A limit was passed by far, which only an attack does.
        """
        try:
            if not pos and block and block[0] & 0xE0 == 0x20:
                pos = self._update_sizes(block)
            return self._decode_fields(block, pos, listed, count)
        except LookupError:  # an index outside the tables, or the block ended inside a field
            raise HpackError("a header block is cut short or has an index without entry") from None
        except huffman.HuffmanError as error:
            raise HpackError(str(error)) from None

    def _decode_fields(self, block: bytes, pos: int, listed: int, count: int) -> list[Field]:
        """Decode what follows the size updates. Locals and inlined short forms: the hot loop."""
        static, table, capacity, used = _STATIC, self._table, self._capacity, self._used
        entries, stateless, end, inserted = _ENTRIES, _STATELESS, len(block), False
        fields: list[Field] = []
        most = BOMB * self.max_list_size
        while pos < end and listed <= most:
            octet = block[pos]
            pos += 1
            if octet >= 0x80:  # indexed field, 6.1
                index = octet & 0x7F
                if index == 0x7F:
                    index, pos = _read_integer(block, pos - 1, 0x7F)
                entry = static[index] if index < 62 else table[61 - index]
            elif not octet:  # literal with its name, without indexing, 6.2.2: no state at all
                start = pos
                pos += 1 + (block[pos] & 0x7F)
                middle = pos
                length = block[pos]
                pos += 1 + (length & 0x7F)
                found = stateless.get(block[start:pos])
                if found is None:
                    known = _NAMES.get(block[start:middle])
                    if known is not None and length < 0x7F and pos <= end:  # a new plain value
                        (name, _, _), _, prefix = known
                        value, size = block[middle + 1 : pos], len(name) + length + 32
                        found = (name, value, prefix + block[middle:pos]), size, prefix
                        if length < _MEMO_STRING:
                            if len(stateless) >= _MEMO_ENTRIES:
                                stateless.clear()
                            stateless[block[start:pos]] = found
                    else:
                        found, pos = _read_stateless(block, start)
                entry = found
            else:
                if octet >= 0x40:
                    mask = 0x3F
                elif octet < 0x20:
                    mask = 0x0F
                else:
                    raise HpackError("a table size update stands behind a field")
                index = octet & mask
                if index:
                    if index == mask:
                        index += block[pos]
                        pos += 1
                        if index >= mask + 0x80:
                            index, pos = _read_integer(block, pos - 2, mask)
                    named = static[index] if index < 62 else table[61 - index]
                else:  # literal name
                    start = pos
                    pos += 1 + (block[start] & 0x7F)
                    known = _NAMES.get(block[start:pos])
                    if known is None:
                        known, pos = _read_name(block, start)
                    named = known
                start = pos
                pos += 1 + (block[start] & 0x7F)
                found = entries.get(named[2] + block[start:pos])
                if found is None or octet & 0xF0 == 0x10:
                    found, pos = _read_entry(block, start, named, octet & 0xF0 == 0x10)
                entry = found
                if octet >= 0x40:  # with incremental indexing, 6.2.1
                    table.append(entry)
                    used += entry[1]
                    inserted = True
                    while used > capacity:  # one larger than the table empties it, itself included
                        used -= table.pop(0)[1]
            fields.append(entry[0])
            listed += entry[1]
        self._used = used
        if inserted:
            self.generation += 1
        if listed > most:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "header list far too long")
        if listed > self.max_list_size:
            raise HeaderListTooLarge(
                f"a header list of {listed} octets passes {self.max_list_size}"
            )
        count += len(fields)
        if count > self.max_fields:
            raise HeaderListTooLarge(f"{count} header fields pass {self.max_fields}")
        return fields

    def _update_sizes(self, block: bytes) -> int:
        """Apply the size updates at the start of a block and return where its fields begin."""
        pos = 0
        for _ in range(2):  # the smallest size since the last block, then the last (4.2)
            if pos == len(block) or block[pos] & 0xE0 != 0x20:
                break
            size, pos = _read_integer(block, pos, 0x1F)
            self._resize(size)
        return pos

    def _resize(self, size: int) -> None:
        """Set the table's capacity, evicting what no longer fits."""
        if size > self.max_table_size:
            raise HpackError(f"a table size of {size} passes {self.max_table_size}")
        self._capacity = size
        self.generation += 1
        while self._used > size:
            self._used -= self._table.pop(0)[1]


def field_ends(block: bytes) -> list[int]:
    """Return where each field of a block ends that has been decoded, and has no size update."""
    pos, ends = 0, []
    while pos < len(block):
        octet = block[pos]
        mask = 0x7F if octet >= 0x80 else 0x3F if octet >= 0x40 else 0x0F
        index, pos = _read_integer(block, pos, mask)
        strings = 0 if octet >= 0x80 else 1 if index else 2
        for _ in range(strings):
            length, pos = _read_integer(block, pos, 0x7F)
            pos += length
        ends.append(pos)
    return ends


def _read_integer(block: bytes, pos: int, mask: int) -> tuple[int, int]:
    """Return an integer that starts in the prefix at ``pos``, and where it ends (5.1)."""
    value = block[pos] & mask
    pos += 1
    if value < mask:
        return value, pos
    for shift in (0, 7, 14, 21, 28):
        octet = block[pos]
        pos += 1
        value += (octet & 0x7F) << shift
        if octet < 0x80 and value <= _LARGEST_INTEGER:
            return value, pos
    raise HpackError("an integer is too long")


def _read_string(block: bytes, pos: int) -> tuple[bytes, bytes, int]:
    """Return a string, its shortest form on the wire, and where it ends (5.2)."""
    coded = block[pos] & 0x80
    length, start = _read_integer(block, pos, 0x7F)
    stop = start + length
    if stop > len(block):
        raise HpackError("a string is longer than the rest of its header block")
    octets = block[start:stop]
    return huffman.decode(octets) if coded else octets, integer(length, 7, coded) + octets, stop


def _read_name(block: bytes, pos: int) -> tuple[_Entry, int]:
    """Return a literal name as an entry that has only a name, and where it ends."""
    name, raw, stop = _read_string(block, pos)
    named = (name, b"", b""), 0, _STATIC_NAMES.get(name) or b"\x00" + raw
    if len(raw) <= _MEMO_STRING:
        if len(_NAMES) >= _MEMO_ENTRIES:
            _NAMES.clear()
        _NAMES[raw] = named
    return named, stop


def _read_stateless(block: bytes, pos: int) -> tuple[_Entry, int]:
    """Return the entry of a literal whose name stands at ``pos``, and where it ends."""
    named, middle = _read_name(block, pos)
    entry, stop = _read_entry(block, middle, named, False)
    if max(middle - pos, stop - middle) <= _MEMO_STRING:
        if len(_STATELESS) >= _MEMO_ENTRIES:
            _STATELESS.clear()
        _STATELESS[block[pos:stop]] = entry
    return entry, stop


def _read_entry(block: bytes, pos: int, named: _Entry, never_indexed: bool) -> tuple[_Entry, int]:
    """Return the entry of a literal whose value stands at ``pos``, and where it ends."""
    (name, _, _), _, prefix = named
    value, raw, stop = _read_string(block, pos)
    size = len(name) + len(value) + 32
    if never_indexed:
        return ((name, value, _never_indexed(prefix) + raw), size, prefix), stop
    wire = prefix + raw
    entry = (name, value, wire), size, prefix
    if len(raw) <= _MEMO_STRING:
        if len(_ENTRIES) >= _MEMO_ENTRIES:
            _ENTRIES.clear()
        _ENTRIES[wire] = entry
    return entry, stop
