"""HPACK of the C library nghttp2, by ctypes: a second opinion that curl, Envoy and Node rely on."""

from __future__ import annotations

from ctypes import (
    CDLL,
    POINTER,
    Structure,
    addressof,
    byref,
    c_char_p,
    c_int,
    c_size_t,
    c_ssize_t,
    c_uint8,
    c_void_p,
    create_string_buffer,
    string_at,
)
from ctypes.util import find_library
from typing import Any

Pairs = list[tuple[bytes, bytes]]

_NEVER_INDEX, _FINAL, _EMIT = 1, 1, 2


class NghttpError(Exception):
    """The library refused a block."""


class _Field(Structure):
    _fields_ = (
        ("name", c_void_p),
        ("value", c_void_p),
        ("namelen", c_size_t),
        ("valuelen", c_size_t),
        ("flags", c_uint8),
    )


def _load() -> Any:
    name = find_library("nghttp2")
    if name is None:
        return None
    library = CDLL(name)
    for function, result, *arguments in (
        ("deflate_hd", c_ssize_t, c_void_p, c_char_p, c_size_t, POINTER(_Field), c_size_t),
        ("deflate_bound", c_size_t, c_void_p, POINTER(_Field), c_size_t),
        ("deflate_new", c_int, POINTER(c_void_p), c_size_t),
        ("inflate_new", c_int, POINTER(c_void_p)),
        ("deflate_change_table_size", c_int, c_void_p, c_size_t),
        ("inflate_change_table_size", c_int, c_void_p, c_size_t),
        ("inflate_end_headers", c_int, c_void_p),
        ("inflate_hd2", c_ssize_t, c_void_p, POINTER(_Field), POINTER(c_int), c_void_p, c_size_t,
         c_int),
        ("deflate_del", None, c_void_p),
        ("inflate_del", None, c_void_p),
    ):  # fmt: skip
        prototype = getattr(library, f"nghttp2_hd_{function}")
        prototype.restype, prototype.argtypes = result, arguments
    return library


LIBRARY = _load()
"""The library, None where it is not installed (Debian: libnghttp2-14; Homebrew: libnghttp2)."""


class Deflater:
    """Encodes header lists; ``size`` is the largest table that it may use."""

    def __init__(self, size: int = 4096) -> None:
        self._state = c_void_p()
        assert LIBRARY.nghttp2_hd_deflate_new(byref(self._state), size) == 0

    def __del__(self) -> None:
        LIBRARY.nghttp2_hd_deflate_del(self._state)

    def resize(self, size: int) -> None:
        """Follow the other side's SETTINGS_HEADER_TABLE_SIZE."""
        assert LIBRARY.nghttp2_hd_deflate_change_table_size(self._state, size) == 0

    def encode(self, fields: list[tuple[bytes, bytes, bool]]) -> bytes:
        """Return a block of (name, value, never indexed)."""
        texts = [(create_string_buffer(n), create_string_buffer(v)) for n, v, _ in fields]
        list_of = (_Field * len(fields))()
        for item, (name, value), (n, v, secret) in zip(list_of, texts, fields, strict=True):
            item.name, item.namelen = addressof(name), len(n)
            item.value, item.valuelen = addressof(value), len(v)
            item.flags = _NEVER_INDEX if secret else 0
        bound = LIBRARY.nghttp2_hd_deflate_bound(self._state, list_of, len(fields))
        out = create_string_buffer(bound)
        size = LIBRARY.nghttp2_hd_deflate_hd(self._state, out, bound, list_of, len(fields))
        assert size >= 0
        return out.raw[:size]


class Inflater:
    """Decodes header blocks."""

    def __init__(self) -> None:
        self._state = c_void_p()
        assert LIBRARY.nghttp2_hd_inflate_new(byref(self._state)) == 0

    def __del__(self) -> None:
        LIBRARY.nghttp2_hd_inflate_del(self._state)

    def resize(self, size: int) -> None:
        """Change the SETTINGS_HEADER_TABLE_SIZE that this side has announced."""
        assert LIBRARY.nghttp2_hd_inflate_change_table_size(self._state, size) == 0

    def decode(self, block: bytes) -> Pairs:
        """Return the fields of a whole block, or raise `NghttpError`."""
        octets, pos, fields = create_string_buffer(block), 0, []
        while True:
            field, flags = _Field(), c_int()
            start = addressof(octets) + pos
            size = LIBRARY.nghttp2_hd_inflate_hd2(
                self._state, byref(field), byref(flags), start, len(block) - pos, 1
            )
            if size < 0:
                raise NghttpError(size)
            pos += size
            if flags.value & _EMIT:
                name = string_at(field.name, field.namelen)
                fields.append((name, string_at(field.value, field.valuelen)))
            if flags.value & _FINAL:
                LIBRARY.nghttp2_hd_inflate_end_headers(self._state)
                return fields
