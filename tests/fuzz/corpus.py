"""The seeds of the fuzz targets, made from the frames of the conformance tables, and mutations."""

from __future__ import annotations

import gzip
import importlib.util
import random
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiplexer import embed, framed

from tei_manager.wire import frames

LONGEST = 4096
"""Octets of an input: a header block or a few frames; length is not what finds faults here."""

_WIRE = Path(__file__).parents[1] / "wire"
_TABLES = ("GENERIC", "FRAMING", "FRAME_TYPES", "MESSAGES")


def _module(name: str) -> Any:
    """Load a module of tests by its path: they are in no package."""
    spec = importlib.util.spec_from_file_location(name, _WIRE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _rows(name: str) -> list[bytes]:
    module = _module(name)
    return [row[1] for table in _TABLES for row in getattr(module, table, ()) if row[1]]


def _blocks() -> list[bytes]:
    """The header blocks of the server's rows, each as the first of two."""
    found = []
    for octets in _rows("test_conformance"):
        while len(octets) >= 9:
            size = int.from_bytes(octets[:3], "big")
            if octets[3] == frames.HEADERS and size < 256:
                found.append(bytes((size,)) + octets[9 : 9 + size] + octets[9 : 9 + size])
            octets = octets[9 + size :]
    return found


def _packed(message: bytes) -> list[bytes]:
    return [
        b"\0" + framed(message) + framed(message),
        b"\1" + framed(gzip.compress(message, mtime=0), 1),
        b"\2" + framed(zlib.compress(message), 1) + framed(message),
        b"\3" + framed(message, 1),
    ]


def _envelopes() -> list[bytes]:
    inner = embed()[embed().index(b"\x12") + 2 :]
    odd = [
        b"\x12\x02\x0a\x00\x0a\x03\x0a\x01a",
        b"\x0a\x03\x0a\x01a\x12\x02\x10\x01\x12\x02\x20\x01",
        b"\x0a\x02\x10\x02\x12\x04\x20\x80\x80\x00",
        b"\x0a\x03\x1a\x01m\x12\x00\x18\x05",
        b"\x12\x02\x20\x02",
        b"\x0b\x0c",
        b"\x0a\x03\x0a\x01a\x0a\x03\x12\x01\x80\x12\x00",
    ]
    return [embed(), embed("x" * 200), embed(index=3), embed(model="org/a"), inner, *odd]


def _texts() -> list[bytes]:
    values = [b"1H", b"99999999n", b"100m", b"0S", b"%41%zz%", b"%e2%82%ac", b"QUJD", b"QQ==,QUI"]
    return [*values, b"application/grpc", b"x-name", b"QQ", b"Q"]


def _conversations() -> list[bytes]:
    """Instructions for Z10: a call and its answer, one that is cancelled, one that is refused."""
    ask, take, wait = b"\x00\xf1\x00\xf2", b"\x07\x00", b"\x06\x01x"
    whole = ask + take + b"\x03\xf0\x03\xf1\x03\xf2\x03\xf3" + take
    rows = [
        b"\x00" + bytes((len(row),)) + row for row in _rows("test_conformance") if len(row) < 240
    ]
    return [
        whole,
        b"\x00\xf5" + take + b"\x03\xf0\x03\xf6" + take,
        ask + b"\x03\xf0\x00\xf3" + wait + take,
        ask + b"\x03\xf0\x03\xf4\x03\xf5" + wait + take,
        *rows,
    ]


def _connections() -> list[bytes]:
    """Blocks for Z11: a client's or an instance's mark, then (beginning, length, rest) each."""
    field = b"\0\3x-a\1"
    varied = b"".join(b"\2\7" + field + bytes((digit,)) for digit in b"1234")
    indexed = b"\1\7\x40" + field[1:] + b"1" + b"\1\1\xbe"
    return [
        b"\0" + varied,
        b"\0" + indexed + varied,
        b"\1" + b"\3\0" * 3 + b"\3\7" + field + b"1" + b"\3\7" + field + b"2",
        b"\1" + b"\x84\0" * 3,  # trailers
    ]


def _shortcuts() -> list[bytes]:
    """Z12: questions and answers that are whole, and runs; a number with 0x80 is the client's."""
    return [
        b"\xc0\0\xc4\0\x40\0\x43\0" * 2,
        b"\xc1\0\xc2\0\xc3\0\x41\0\x42\0",
        b"\xc0\0\x44\0",
        b"\x45\0\xc0\0\x40\0",
    ]


def _requests() -> list[bytes]:
    """Requests to the API: each operation, and what is refused before one is reached."""
    host = b"Host: localhost\n"
    typed = host + b"Content-Type: application/json\n\n"
    create = b"POST /instances?wait=0\n" + typed
    return [
        create + b'{"name": "a", "model_id": "org/m"}',
        create + b'{"name": "a", "model_id": "org/m", "extra_args": ["--auto-truncate"]}',
        create + b'{"name": "a", "model_id": "/srv/m", "api_key_file": "/etc/passwd"}',
        create + b'{"name": "a", "model_id": "m", "backend": "external", "address": "[::1]:80"}',
        create + b'{"name": "a", "model_id": "m", "gpu_id": 1e999, "port": 18446744073709551616}',
        create + b"[" * 20 + b"]" * 20,
        b"GET /instances\n" + host,
        b"HEAD /health\n" + host,
        b"GET /instances/a/logs?start=-5&end=5&follow=1\n" + host,
        b"DELETE /instances/%2e%2e%2fa\n" + host,
        b"POST /instances/a/restart?wait=1\n" + host + b"Sec-Fetch-Site: cross-site\n",
        b"POST /models\n" + typed + b'{"model_id": "org/m"}',
        b"GET /models/org%2Fm\n" + host,
        b"POST /models/org/m/load?wait=0\n" + host + b"Origin: null\n",
        b"OPTIONS /instances\n" + host + b"Authorization: Bearer \xff\n",
        b"PUT /openapi.json\nHost: evil.example\n",
    ]


def _files() -> list[bytes]:
    """Settings files, and behind the octet 1 changes of a state file."""
    return [
        b'[api]\nport = 9000\n[[instance]]\nname = "a"\nmodel_id = "m"\nport = 8081\n',
        b'[instances]\nexternal_hosts = ["10.0.0.0/8", "*", "a.example"]\nport_start = 9\n',
        b'[[instance]]\nname = "a"\nmodel_id = "m"\nbackend = "external"\naddress = "[::1]:1"\n',
        b"[health]\ninterval_secs = 1e400\nfailures_before_restart = -1\n[api]\nport = 1.5\n",
        b"\xef\xbb\xbf[log]\nlevel = 'debug'\nlevel = 2021-01-01T00:00:00Z\n",
        b"\x01\x00\x3f\x01\x03\x00\x00\x00\x00",
        b"\x01\x00\x00\x04junk",
        b"\x01\x10\x00\x00\x00",
        b"\x01\x0f\x80\x01\xff\x1f\x80\x02\xff\xff\x2f\x80\x01\x00",
    ]


_SEEDS: dict[str, Callable[[], list[bytes]]] = {
    "Z1": _blocks,
    "Z2": lambda: _rows("test_conformance"),
    "Z3": lambda: _rows("test_client_conformance"),
    "Z4": lambda: [seed for text in (b"", b"a", bytes(2000)) for seed in _packed(text)],
    "Z5": _envelopes,
    "Z6": _texts,
    "Z7": _requests,
    "Z8": _files,
    "Z10": _conversations,
    "Z11": _connections,
    "Z12": _shortcuts,
}


def seeds(target: str) -> list[bytes]:
    """Return the seeds of a target, none longer than `LONGEST`."""
    return [seed for seed in _SEEDS[target]() if len(seed) <= LONGEST]


def mutations(target: str, count: int) -> list[bytes]:
    """Return mutations of a target's seeds: always the same ones."""
    chance, pool = random.Random(target), seeds(target)
    return [_mutated(chance, pool) for _ in range(count)]


def _mutated(chance: random.Random, pool: list[bytes]) -> bytes:
    octets = bytearray(chance.choice(pool))
    for _ in range(chance.randint(1, 4)):
        at = chance.randint(0, len(octets))
        match chance.randrange(5):
            case 0:
                octets[at:at] = chance.randbytes(chance.randint(1, 8))
            case 1:
                del octets[at : at + chance.randint(1, 8)]
            case 2:
                octets[at : at + 1] = chance.choice([b"\0", b"\x7f", b"\x80", b"\xff"])
            case 3:
                octets[at:at] = chance.choice(pool)
            case _:
                octets[at:at] = octets[at : at + chance.randint(1, 64)]
    return bytes(octets[:LONGEST])


def write(target: str, folder: Path) -> None:
    """Write a target's seeds into a folder, a file each, as libFuzzer wants them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds(target)):
        (folder / f"seed-{number:03}").write_bytes(seed)
