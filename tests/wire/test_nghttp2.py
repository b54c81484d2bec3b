"""HPACK, both ways, against nghttp2: its deflater, its inflater, and what neither may take.

The one difference: a block may begin with any number of size updates there, with two here.
"""

from __future__ import annotations

import nghttp2
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from nghttp2 import Deflater, Inflater, NghttpError

from tei_manager.wire import frames, hpack
from tei_manager.wire.hpack import Decoder, HpackError

pytestmark = pytest.mark.skipif(
    nghttp2.LIBRARY is None, reason="libnghttp2 is not installed (Debian: libnghttp2-14)"
)

names = st.sampled_from(
    [b":status", b":path", b"content-type", b"x-a", b"x-compute-time", b"grpc-status", b"te"]
) | st.binary(max_size=50)
values = st.sampled_from([b"", b"200", b"application/grpc", b"12"]) | st.binary(max_size=300)
field_lists = st.lists(st.tuples(names, values, st.booleans()), max_size=12)
sizes = st.none() | st.sampled_from([0, 31, 64, 200, 4096]) | st.integers(0, 4096)
Script = list[tuple[list[tuple[bytes, bytes, bool]], int | None]]
scripts = st.lists(st.tuples(field_lists, sizes), max_size=12)


@given(scripts, st.sampled_from([0, 100, 4096, 1 << 16]))
def test_what_its_deflater_writes_we_read_and_its_inflater_reads_what_we_pass_on(
    script: Script, largest: int
) -> None:
    deflater, ours, theirs = Deflater(largest), Decoder(max_list_size=1 << 20), Inflater()
    for fields, size in script:
        if size is not None:
            deflater.resize(size)
        want = [(name, value) for name, value, _ in fields]
        decoded = ours.decode(deflater.encode(fields))
        assert [(name, value) for name, value, _ in decoded] == want
        assert theirs.decode(b"".join(wire for _, _, wire in decoded)) == want


@given(scripts)
def test_its_inflater_reads_what_we_write_whatever_table_it_allows(script: Script) -> None:
    """It wants a size update after it has announced a smaller table, and counts what we say."""
    inflater, update = Inflater(), b""
    for fields, size in script:
        if size is not None:
            inflater.resize(size)
            update = hpack.size_update(0) if size < hpack.DEFAULT_TABLE_SIZE else update
        block = b"".join(hpack.literal(n, v, never_indexed=secret) for n, v, secret in fields)
        assert inflater.decode(update + block) == [(name, value) for name, value, _ in fields]
        update = b""


octets = st.binary(max_size=40) | st.lists(
    st.sampled_from(
        [b"\x82", b"\xbe", b"\xbf", b"\x40\x01a\x01b", b"\x44\x81\x1f", b"\x0f\x2f\x01x", b"\x20",
         b"\x3f\xe1\x1f", b"\x10\x01z\x00", b"\x7e\x01q", b"\xff\x00", b"\x00\x7f\x80\x00",
         b"\x3f\xe2\x1f", b"\x80", b"\x40\x82\x94\xe7\x01b", b"\x00\x84\xff\xff\xff\xff\x00"]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


@st.composite
def nearly_sound(draw: st.DrawFn) -> list[bytes]:
    """A connection's blocks, of which some have an octet that is another, missing or one more."""
    deflater, stream = Deflater(), []
    for fields, _ in draw(scripts):
        block = deflater.encode(fields)
        at = draw(st.integers(0, len(block)))
        other = draw(st.none() | st.binary(max_size=2))
        stream.append(block if other is None else block[:at] + other + block[at + 1 :])
    return stream


@settings(max_examples=400)
@given(st.lists(octets, min_size=1, max_size=4) | nearly_sound())
def test_octets_are_taken_by_both_or_refused_by_both(stream: list[bytes]) -> None:
    ours, theirs = Decoder(max_list_size=1 << 20, max_fields=1 << 20), Inflater()
    for block in stream:
        try:
            want = theirs.decode(block)
        except NghttpError:
            event("refused")
            with pytest.raises(HpackError):
                ours.decode(block)
            return
        try:
            assert [(name, value) for name, value, _ in ours.decode(block)] == want
        except HpackError:
            assert _leading_updates(block) > 2
            return
    event("taken")


def _leading_updates(block: bytes) -> int:
    count = pos = 0
    while pos < len(block) and block[pos] & 0xE0 == 0x20:
        _, pos = hpack._read_integer(block, pos, 0x1F)
        count += 1
    return count


def test_a_block_of_the_largest_size_is_read_by_both() -> None:
    wire = hpack.literal(b"x", bytes(1000)) * (frames.DEFAULT_MAX_FRAME // 1100)
    decoded = Decoder(max_list_size=1 << 20).decode(wire)
    assert Inflater().decode(wire) == [(name, value) for name, value, _ in decoded]
