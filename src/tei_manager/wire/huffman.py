r"""The Huffman code of HPACK, decoded an octet at a time (RFC 7541 5.2 and Appendix B).

Theory
    The code is canonical: a code word is one more than the word before it in the order of
    (length, symbol), shifted left where the length grows. So the lengths say everything, and they
    are all that is written down here.
    A decoder's state is a node of the code tree, the rest of a word that the last octet left
    unfinished. For each state there is a row with a cell for every octet: the row to go on with,
    the bytes that this octet completes (two at most: the shortest word has five bits), and whether
    a string may end there. A row is filled when it is first met, in about 0.2 ms; most of the 256
    never are.

Rules of this file
    1. A string may end only inside seven or fewer bits that are all ones: longer padding, other
       padding, and the end-of-string word anywhere are errors (RFC 7541 5.2).
    2. Words that nothing encodes lead to a row that leads to itself and where nothing may end, so
       the loop has one test, after its last octet.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

_Row: TypeAlias = "list[tuple[_Row, bytes, bool]]"
_Node: TypeAlias = "list[_Node | int]"

_SYMBOLS_BY_LENGTH = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb\xbd\xbe\xc4"
    b"\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8\xae\xaf\xb4"
    b"\xb6\xb7\xbc\xbf\xc5\xe7\xef",
    24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18\x19\x1a\x1b"
    b"\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    30: b"\n\r\x16",
}
"""The octets whose code words have this many bits (RFC 7541 Appendix B)."""

_END_OF_STRING = 256  # the last word, thirty ones

_DEAD: _Row = []
_DEAD.extend([(_DEAD, b"", False)] * 256)


class HuffmanError(Exception):
    """The octets are not a whole Huffman-coded string."""


def decode(data: bytes) -> bytes:
    """Return the string that ``data`` codes.

    Raises:
        HuffmanError: The padding is wrong, or the end-of-string word occurs.
    """
    row, ends, pieces = _ROOT, True, []
    for octet in data:
        try:
            row, piece, ends = row[octet]
        except IndexError:
            _fill(row)
            row, piece, ends = row[octet]
        pieces.append(piece)
    if not ends:
        raise HuffmanError("a Huffman-coded string ends with wrong padding")
    return b"".join(pieces)


def _code_words() -> Iterator[tuple[int, int, int]]:
    """Yield (symbol, code word, bits) in canonical order."""
    word, length = 0, 5
    for bits, symbols in _SYMBOLS_BY_LENGTH.items():
        word <<= bits - length
        length = bits
        for symbol in symbols:
            yield symbol, word, bits
            word += 1
    yield _END_OF_STRING, word, length


def _tree() -> _Node:
    """Return the code tree: a node holds its two children, a leaf is a symbol."""
    root: _Node = []
    for symbol, word, bits in _code_words():
        node = root
        for shift in range(bits - 1, 0, -1):
            node = _child(node, word >> shift & 1)
        node.append(symbol)
    return root


def _child(node: _Node, bit: int) -> _Node:
    """Return a child, made if it is not there yet: in canonical order the 0 child comes first."""
    if bit == len(node):
        node.append([])
    child = node[bit]
    assert isinstance(child, list)
    return child


class _States:
    """The rows by node, and the node of each row; a list has no hash, so both go by identity."""

    def __init__(self) -> None:
        self.tree = _tree()
        self.rows: dict[int, _Row] = {}
        self.nodes: dict[int, _Node] = {}
        self.padding = {id(node) for node in self._all_ones()}

    def row(self, node: _Node) -> _Row:
        """Return the row of a node, empty if it was not met before."""
        row = self.rows.setdefault(id(node), [])
        self.nodes[id(row)] = node
        return row

    def _all_ones(self) -> Iterator[_Node]:
        """Yield the nodes at which a string may end: up to seven ones from the root."""
        node = self.tree
        for _ in range(8):
            yield node
            node = _child(node, 1)


_STATES = _States()
_ROOT = _STATES.row(_STATES.tree)


def _fill(row: _Row) -> None:
    """Give a row its 256 cells."""
    node = _STATES.nodes[id(row)]
    row.extend([_cell(node, octet) for octet in range(256)])


def _cell(node: _Node, octet: int) -> tuple[_Row, bytes, bool]:
    """Walk the tree by the eight bits of one octet."""
    piece = bytearray()
    for shift in range(7, -1, -1):
        child = node[octet >> shift & 1]
        if child == _END_OF_STRING:
            return _DEAD, b"", False
        if isinstance(child, int):
            piece.append(child)
            child = _STATES.tree
        node = child
    return _STATES.row(node), bytes(piece), id(node) in _STATES.padding
