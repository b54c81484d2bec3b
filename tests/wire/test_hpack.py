"""The decoder against the ``hpack`` package, the examples of RFC 7541, and its own limits.

Documented differences to the oracle: it allows any number of size updates at a block's start, we
allow two.
"""

from __future__ import annotations

from typing import Any

import hpack as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tei_manager.wire import hpack
from tei_manager.wire.frames import ErrorCode, ProtocolError
from tei_manager.wire.hpack import Decoder, HeaderListTooLarge, HpackError

Pairs = list[tuple[bytes, bytes]]

names = st.sampled_from(
    [b":status", b":path", b"content-type", b"x-a", b"x-compute-time", b"grpc-status", b"te"]
) | st.binary(max_size=50)
values = st.sampled_from([b"", b"200", b"application/grpc", b"12"]) | st.binary(max_size=200)
field_lists = st.lists(st.tuples(names, values, st.booleans()), max_size=12)
blocks = st.lists(
    st.tuples(field_lists, st.booleans(), st.none() | st.sampled_from([0, 64, 200, 4096])),
    max_size=12,
)


def pairs(fields: list[hpack.Field]) -> Pairs:
    return [(name, value) for name, value, _ in fields]


def reads_as(wire: bytes) -> Pairs:
    """What a decoder with an empty table makes of a wire form."""
    return [(bytes(n), bytes(v)) for n, v in oracle.Decoder().decode(wire, raw=True)]


def oracle_decoder() -> Any:
    return oracle.Decoder(max_header_list_size=1 << 30)


def insert(name: bytes, value: bytes) -> bytes:
    return b"\x40" + hpack.integer(len(name), 7) + name + hpack.integer(len(value), 7) + value


def forget() -> None:
    hpack._ENTRIES.clear()
    hpack._NAMES.clear()


@given(blocks)
def test_a_connection_of_blocks_decodes_and_transcodes_as_it_was_encoded(
    script: list[tuple[list[tuple[bytes, bytes, bool]], bool, int | None]],
) -> None:
    encoder, decoder = oracle.Encoder(), Decoder(max_list_size=1 << 20)
    for fields, huffman, table_size in script:
        if table_size is not None:
            encoder.header_table_size = table_size
        decoded = decoder.decode(encoder.encode(fields, huffman=huffman))
        assert pairs(decoded) == [(name, value) for name, value, _ in fields]
        for name, value, wire in decoded:
            assert reads_as(wire) == [(name, value)]
        assert reads_as(b"".join(wire for _, _, wire in decoded)) == pairs(decoded)


octets = st.binary(max_size=40) | st.lists(
    st.sampled_from(
        [b"\x82", b"\xbe", b"\xbf", b"\x40\x01a\x01b", b"\x44\x81\x1f", b"\x0f\x2f\x01x", b"\x20",
         b"\x3f\xe1\x1f", b"\x10\x01z\x00", b"\x7e\x01q", b"\xff\x00", b"\x00\x7f\x80\x00"]
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


@settings(max_examples=400)
@given(st.lists(octets, min_size=1, max_size=4))
def test_arbitrary_blocks_are_taken_and_refused_as_the_oracle_does(stream: list[bytes]) -> None:
    ours, theirs = Decoder(max_list_size=1 << 20, max_fields=1 << 20), oracle_decoder()
    for block in stream:
        try:
            expected = [(bytes(n), bytes(v)) for n, v in theirs.decode(block, raw=True)]
        except oracle.HPACKError:
            with pytest.raises(HpackError):
                ours.decode(block)
            return
        try:
            assert pairs(ours.decode(block)) == expected
        except HpackError:
            assert block[0] & 0xE0 == 0x20  # the documented difference
            return


@given(st.lists(octets, max_size=4), st.binary(max_size=30))
def test_arbitrary_octets_raise_nothing_but_the_two_errors(seed: list[bytes], block: bytes) -> None:
    decoder = Decoder(max_list_size=200, max_fields=5)
    for part in [*seed, block]:
        try:
            fields = decoder.decode(part)
        except HpackError:
            return
        except HeaderListTooLarge:
            continue
        assert sum(len(name) + len(value) + 32 for name, value, _ in fields) <= 200
        assert len(fields) <= 5
        for name, value, wire in fields:
            assert reads_as(wire) == [(name, value)]


@given(blocks)
def test_a_full_memo_and_an_empty_one_give_the_same_fields(
    script: list[tuple[list[tuple[bytes, bytes, bool]], bool, int | None]],
) -> None:
    encoder, cold, warm = oracle.Encoder(), Decoder(), Decoder()
    for fields, huffman, _ in script:
        block = encoder.encode(fields, huffman=huffman)
        forget()
        first = cold.decode(block)
        assert warm.decode(block) == first


RFC_EXAMPLES = {
    "C.3 without Huffman": [
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ],
    "C.4 with Huffman": [
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ],
}


@pytest.mark.parametrize("stream", RFC_EXAMPLES.values(), ids=RFC_EXAMPLES)
def test_request_examples_of_the_rfc_decode(stream: list[str]) -> None:
    decoder = Decoder()
    first, second, third = (decoder.decode(bytes.fromhex(block)) for block in stream)
    request = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/")]
    host = (b":authority", b"www.example.com")
    assert pairs(first) == [*request, host]
    assert pairs(second) == [*request, host, (b"cache-control", b"no-cache")]
    assert pairs(third) == [
        (b":method", b"GET"),
        (b":scheme", b"https"),
        (b":path", b"/index.html"),
        host,
        (b"custom-key", b"custom-value"),
    ]


def test_response_examples_with_evictions_of_the_rfc_decode() -> None:
    # C.6 runs with a table of 256 octets, which its first block says here.
    decoder = Decoder()
    first = decoder.decode(
        hpack.size_update(256)
        + bytes.fromhex(
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad1718"
            "63c78f0b97c8e9ae82ae43d3"
        )
    )
    second = decoder.decode(bytes.fromhex("4883640effc1c0bf"))
    third = decoder.decode(
        bytes.fromhex(
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7"
            "b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007"
        )
    )
    date, location = b"Mon, 21 Oct 2013 20:13:21 GMT", (b"location", b"https://www.example.com")
    rest = [(b"cache-control", b"private"), (b"date", date), location]
    assert pairs(first) == [(b":status", b"302"), *rest]
    assert pairs(second) == [(b":status", b"307"), *rest]
    assert pairs(third) == [
        (b":status", b"200"),
        (b"cache-control", b"private"),
        (b"date", b"Mon, 21 Oct 2013 20:13:22 GMT"),
        location,
        (b"content-encoding", b"gzip"),
        (b"set-cookie", b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"),
    ]
    assert decoder._used == 215  # as the RFC counts it


def test_generation_stands_still_for_blocks_that_leave_the_table_alone() -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    before = decoder.generation
    for pure in (b"\xbe", b"\x88", b"\x00\x01c\x01d", b"\x10\x01c\x01d", b"\x0f\x2f\x01e", b""):
        decoder.decode(pure)
    assert decoder.generation == before


@pytest.mark.parametrize(
    "block", [b"\x40\x01c\x01d", b"\x20", b"\x3f\xe1\x1f", b"\x40\x01c\x7f\xff\x1f" + b"x" * 4222]
)
def test_generation_rises_with_inserts_evictions_and_resizes(block: bytes) -> None:
    decoder = Decoder()
    decoder.decode(b"\x40\x01a\x01b")
    before = decoder.generation
    decoder.decode(block)
    assert decoder.generation > before


def test_an_entry_larger_than_the_table_empties_it() -> None:
    decoder = Decoder()
    decoder.decode(insert(b"a", b"b"))
    decoder.decode(insert(b"c", b"x" * 4100))
    with pytest.raises(HpackError):
        decoder.decode(b"\xbe")


def test_table_stays_in_step_past_the_size_limit() -> None:
    decoder = Decoder(max_list_size=100)
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(insert(b"x-long", b"v" * 80) + insert(b"x-late", b"kept"))
    assert pairs(decoder.decode(b"\xbe")) == [(b"x-late", b"kept")]


def test_table_stays_in_step_past_the_field_limit() -> None:
    decoder = Decoder(max_fields=100)
    assert len(decoder.decode(b"\x88" * 100)) == 100
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(b"\x88" * 100 + insert(b"x-late", b"kept"))
    assert pairs(decoder.decode(b"\xbe")) == [(b"x-late", b"kept")]


def test_a_size_limit_is_met_exactly() -> None:
    decoder = Decoder(max_list_size=100)
    assert decoder.decode(hpack.literal(b"a" * 8, b"b" * 60))
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(hpack.literal(b"a" * 8, b"b" * 61))


@pytest.mark.parametrize("value", [b"", b"v" * 3900])
def test_a_bomb_of_indexed_fields_ends_the_connection_after_a_look_at_its_beginning(
    value: bytes,
) -> None:
    decoder = Decoder()
    decoder.decode(insert(b"x", value))
    beyond = b"\xbe" * 15_000 + b"\x80"  # an index that there is not, which is never reached
    with pytest.raises(ProtocolError, match="far too long") as raised:
        decoder.decode(beyond)
    assert raised.value.code is ErrorCode.ENHANCE_YOUR_CALM


def test_a_list_a_few_times_too_long_is_refused_and_the_table_stays_in_step() -> None:
    decoder = Decoder()
    with pytest.raises(HeaderListTooLarge, match="400 header fields"):
        decoder.decode(insert(b"x", b"v") + b"\xbe" * 399)
    assert decoder.decode(b"\xbe") == decoder.decode(b"\xbe")


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "index 0"),
        (b"\xbe", "an index past the table"),
        (b"\xff\xff\xff\xff\xff\x0f", "an index past everything"),
        (b"\x7e\x01a", "a name past the table"),
        (b"\x00\x7f\xff\xff\xff\xff\x0f", "a string of 4 GiB"),
        (b"\x00\x05ab", "a name longer than the block"),
        (b"\x00\x01a\x05ab", "a value longer than the block"),
        (b"\x00\x01a", "no value"),
        (b"\x40", "nothing behind the first octet"),
        (b"\x00\x7f\x80\x80\x80\x80\x80\x00", "six continuation octets"),
        (b"\x3f\xff\xff\xff\xff\x08", "a size of more than 2^31"),
        (b"\x3f\xe2\x1f", "a table larger than we allow"),
        (b"\x20\x20\x20", "three size updates"),
        (b"\x88\x20", "a size update behind a field"),
        (b"\x00\x01a\x81\x00", "Huffman padding of zeroes"),
    ],
)
def test_what_breaks_the_rules_is_refused(block: bytes, why: str) -> None:
    with pytest.raises(HpackError):
        Decoder().decode(block)


def test_a_length_in_more_octets_than_it_needs_is_written_anew() -> None:
    long = b"v" * 127
    (field,) = Decoder().decode(b"\x00\x01a\x7f\x80\x80\x00" + long)
    assert field == (b"a", long, b"\x00\x01a\x7f\x00" + long)


def test_a_table_may_shrink_and_grow_again_in_one_block() -> None:
    decoder = Decoder()
    decoder.decode(insert(b"a", b"b"))
    decoder.decode(hpack.size_update(0) + hpack.size_update(4096) + insert(b"c", b"d"))
    assert pairs(decoder.decode(b"\xbe")) == [(b"c", b"d")]
    with pytest.raises(HpackError):
        decoder.decode(b"\xbf")


def test_a_never_indexed_field_stays_one_and_enters_no_memo() -> None:
    forget()
    secret = oracle.Encoder().encode([(b"x-key", b"geheim", True)])
    decoder = Decoder()
    ((_, value, wire),) = decoder.decode(secret)
    assert value == b"geheim"
    assert wire[0] & 0xF0 == 0x10
    assert not hpack._ENTRIES
    decoder.decode(insert(b"x-key", b"other"))
    ((_, _, wire),) = decoder.decode(b"\x1f\x2f\x03abc")  # its name by a dynamic index
    assert wire == b"\x10\x05x-key\x03abc"


def test_memos_are_bounded() -> None:
    encoder, decoder = oracle.Encoder(), Decoder()
    for number in range(6000):
        name = b"x-%d" % number
        decoder.decode(encoder.encode([(name, b"v%d" % number)]))
    assert len(hpack._ENTRIES) <= 4096
    assert len(hpack._NAMES) <= 4096


@given(st.integers(0, 1 << 31), st.integers(1, 8))
def test_integers_come_back(value: int, bits: int) -> None:
    octets = hpack.integer(value, bits)
    assert hpack._read_integer(octets, 0, (1 << bits) - 1) == (value, len(octets))


@given(names, values, st.booleans())
def test_literals_come_back(name: bytes, value: bytes, secret: bool) -> None:
    block = hpack.literal(name, value, never_indexed=secret)
    assert reads_as(block) == [(name, value)]
    assert block[0] & 0xF0 == (0x10 if secret else 0)


def test_the_static_table_is_that_of_the_rfc() -> None:
    table = oracle.table.HeaderTable.STATIC_TABLE
    assert [entry[0][:2] for entry in hpack._STATIC.values()] == list(table)
    assert hpack.STATUS_200 == b"\x88"
