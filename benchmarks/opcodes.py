"""Bytecodes that the switch executes for a call: a measure of its work that needs no clock.

    python -m benchmarks.opcodes [--save]

Theory
    A worker, one client and one instance live in one event loop without clock and sockets
    (`memory_loop`). The client writes calls as the load does (`benchmarks.calls`), half of them
    with header fields that come once; the instance answers as the load's stand-in for TEI. While
    a load runs, every bytecode of a function of `tei_manager` is counted by the interpreter's own
    tracing. So the figures are the same on every machine and however busy it is, and differ
    between versions of Python only.

Known flaws
    What C does for a bytecode (a copy, a system call, uvloop itself) counts as one.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from benchmarks.answers import answer
from benchmarks.backend import Backend
from benchmarks.calls import (
    SMALL_ANSWER,
    STREAM,
    TEXT,
    UNARY,
    CallEncoder,
    data_frame,
    embed_message,
)
from benchmarks.fakes import FAKES
from benchmarks.frames import FrameReader
from benchmarks.peers.ours import INSTANCE
from tei_manager import wire
from tei_manager.bench.report import Cells
from tei_manager.wire import frames

if not TYPE_CHECKING:
    sys.path.append(FAKES)

from memory_loop import Wire
from memory_switch import MemorySwitch, memory_switch

FILE = Path(__file__).parent / "results" / "opcodes.json"
"""The committed counts, by version of Python and load."""

TOLERANCE = 0.03
"""Share by which a count may differ from the committed one."""

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
PACKAGE = str(Path(wire.__file__).parents[1])
MESSAGE = embed_message(TEXT + SMALL_ANSWER)
PORT = 1
SHOWN = 12
"""Files of which a table tells by name."""

WARM_UP, CALLS = 1040, 80
"""Calls, or messages, before the count begins, and those that are counted."""


class _Pipe(asyncio.Transport):
    """The stand-in's transport: what it writes goes to the worker at once."""

    def __init__(self, end: Wire) -> None:
        super().__init__()
        self._end = end

    def write(self, data: Any) -> None:
        self._end.deliver(bytes(data))


class Pair:
    """The client and the instance of a worker in memory.

    Args:
        memory: The worker.
        method: Which RPC is called.
    """

    def __init__(self, memory: MemorySwitch, method: str) -> None:
        self._memory = memory
        self._instances: list[tuple[Wire, Backend]] = []
        memory.loop.dial = self._dial
        self._client = memory.loop.connect()
        self.encoder = CallEncoder(method, MESSAGE)
        self._reader = FrameReader()
        self.octets = 0
        """Octets of answers that the client has got."""
        hello = frames.PREFACE + frames.settings({frames.INITIAL_WINDOW_SIZE: 1 << 30})
        self.send(hello + frames.window_update(0, 1 << 30))

    def _dial(self, _host: str, _port: int, end: Wire) -> None:
        backend = Backend()
        self._instances.append((end, backend))
        self._memory.loop.call_soon(backend.connection_made, _Pipe(end))

    def send(self, data: bytes) -> None:
        """Let the client send octets, and everybody act until nothing moves."""
        self._client.deliver(data)
        moved = True
        while moved:
            self._memory.loop.settle()
            moved = self._move()

    def _move(self) -> bool:
        moved = False
        for end, backend in self._instances:
            if taken := end.take():
                moved = True
                backend.data_received(taken)
        for kind, _, _, payload in self._reader.feed(self._client.take()):
            self.octets += len(payload) if kind == frames.DATA else 0
        return moved


def _unary(together: int) -> Callable[[Pair, int], None]:
    def load(pair: Pair, calls: int) -> None:
        for _ in range(0, calls, together):
            pair.send(b"".join(pair.encoder.unary() for _ in range(together)))

    return load


def _messages(pair: Pair, count: int) -> None:
    pair.send(pair.encoder.headers())
    frame = data_frame(2 * pair.encoder.begun - 1, MESSAGE)
    for _ in range(0, count, 20):
        pair.send(frame * 20)


LOADS: dict[str, tuple[str, Callable[[Pair, int], None]]] = {
    "a call, 1 at a time": (UNARY, _unary(1)),
    "a call, 20 at a time": (UNARY, _unary(20)),
    "a message of EmbedStream, 20 at a time": (STREAM, _messages),
}


def count(load: str) -> Counter[str]:
    """Return the bytecodes of one call, or message, of a load by the file that they are in."""
    method, run = LOADS[load]
    random.seed(1)  # traces and deadlines of the calls
    with memory_switch((INSTANCE, PORT)) as memory:
        pair = Pair(memory, method)
        run(pair, WARM_UP)
        with _counting() as found:
            run(pair, CALLS)
        if pair.octets != (WARM_UP + CALLS) * len(answer(SMALL_ANSWER)):
            raise RuntimeError(f"{load}: {pair.octets} octets of answers came")
    return Counter({name: number / CALLS for name, number in found.items()})


@contextmanager
def _counting() -> Iterator[Counter[str]]:
    """Count bytecodes of the package's functions by file while the block runs."""
    found: Counter[str] = Counter()
    files: dict[str, str] = {}

    def on_call(frame: FrameType, _event: str, _argument: Any) -> Any:
        name = frame.f_code.co_filename
        if not name.startswith(PACKAGE):
            return None
        file = files.setdefault(name, name.removeprefix(PACKAGE).lstrip("/"))
        frame.f_trace_lines, frame.f_trace_opcodes = False, True

        def on_opcode(_frame: FrameType, event: str, _argument: Any) -> Any:
            if event == "opcode":
                found[file] += 1
            return on_opcode

        return on_opcode

    before = sys.gettrace()
    if own := inspect.currentframe():
        own.f_trace_opcodes = True  # or Python 3.12 reports none the first time
    sys.settrace(on_call)
    try:
        yield found
    finally:
        sys.settrace(before)


Counts = dict[str, dict[str, float]]
"""Bytecodes of a call by load and file."""


def committed() -> dict[str, Counts]:
    """Return the committed counts by version of Python."""
    counts: dict[str, Counts] = json.loads(FILE.read_text("utf-8"))
    return counts


def main() -> None:
    """Show the counts of all loads, and make them the committed ones if asked."""
    found = {load: dict(count(load).most_common()) for load in LOADS}
    for load, files in found.items():
        print(f"{load}: {sum(files.values()):,.1f} bytecodes")
        for name, number in files.items():
            print(f"  {number:8.1f}  {name}")
    if "--save" in sys.argv[1:]:
        FILE.write_text(json.dumps(committed() | {VERSION: found}, indent=2) + "\n", "utf-8")


def by_file(counts: Counts) -> Cells:
    """Return a table of the files that have most of them, and the rest in one row."""
    files = sorted(counts[next(iter(counts))].items(), key=lambda item: -item[1])
    shown = [name for name, _ in files[:SHOWN]]
    cells = [["bytecodes of", *counts]]
    cells += [[name, *(f"{of.get(name, 0):,.0f}" for of in counts.values())] for name in shown]
    rest = [sum(n for name, n in of.items() if name not in shown) for of in counts.values()]
    cells.append(["all others", *(f"{number:,.0f}" for number in rest)])
    cells.append(["all", *(f"{sum(of.values()):,.0f}" for of in counts.values())])
    return cells


if __name__ == "__main__":
    main()
