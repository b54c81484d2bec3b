"""Hold calls through the switch against direct ones: five gRPC libraries on either side, 16 cases.

    python tools/matrix.py

`make conformance` runs this. The programs are in ``tests/interop``: each serves one small service
and plays 16 cases against any other's, writing down what it saw. A cell is one case of one client
at one server, and is *alike* if the client saw the same through ``--passthrough any`` as directly:
octets, status, message, both kinds of metadata. Cells that fail both ways are named: a library that
knows no compression, say, is as ignorant with the switch as without it.

Where Node has no ``@grpc/grpc-js`` or Ruby no ``grpc``, these are named and left out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import interop

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "interop"

STACKS: dict[str, list[str]] = {
    "grpcio": [sys.executable, str(FOLDER / "stack_grpcio.py")],
    "aio": [sys.executable, str(FOLDER / "stack_aio.py")],
    "grpclib": [sys.executable, str(FOLDER / "stack_grpclib.py")],
    "node": ["node", str(FOLDER / "stack_node.js")],
    "ruby": ["ruby", str(FOLDER / "stack_ruby.rb")],
}

PROBES = {
    "node": ["node", "-e", 'require("@grpc/grpc-js")'],
    "ruby": ["ruby", "-e", 'require "grpc"'],
}
"""What tells whether a library is there."""

HINTS = {
    "node": "npm install --prefix DIR @grpc/grpc-js, and set $NODE_PATH to DIR/node_modules",
    "ruby": "the package is ruby-grpc on Debian, the gem grpc elsewhere",
}

CASES = 16
PLAY_SECONDS = 120.0
"""How long a client may take for all cases; three seconds are usual."""

CODES = {"status": 9, "special_message": 9, "status_behind_answers": 10, "deadline": 4, "cancel": 1}
"""How cases end that do not end with OK; ``unimplemented`` has two of its own."""


class Cell(NamedTuple):
    """What one client saw in one case at one server, both ways."""

    client: str
    server: str
    case: str
    direct: Any
    through: Any

    @property
    def alike(self) -> bool:
        """Whether the switch made no difference."""
        return self.direct is not None and self.direct == self.through

    @property
    def fails(self) -> bool:
        """Whether the case does not end as it should where nothing is in between."""
        if self.case == "unimplemented":
            return {seen.get("code") for seen in (self.direct or {}).values()} != {12}
        return (self.direct or {}).get("code") != CODES.get(self.case, 0)


def known_stacks() -> list[str]:
    """Return the libraries that this machine has, and say which it has not."""
    known = []
    for name in STACKS:
        probe = PROBES.get(name)
        try:
            there = probe is None or not subprocess.run(probe, capture_output=True).returncode
        except FileNotFoundError:
            there = False
        if there:
            known.append(name)
        else:
            print(f"matrix, {name} is left out: {HINTS[name]}")
    return known


def play(client: str, port: int) -> dict[str, Any]:
    """Let a client play all cases against a port; returns what it saw, by case."""
    command = [*STACKS[client], "call", str(port)]
    with interop.running(command, subprocess.PIPE) as player:
        output, _ = player.communicate(timeout=PLAY_SECONDS)
    return {case: seen for line in output.splitlines() for case, seen in json.loads(line).items()}


def matrix(clients: Sequence[str], servers: Sequence[str]) -> list[Cell]:
    """Play every client against every server, directly and through the switch."""
    cells = []
    for server in servers:
        with interop.running([*STACKS[server], "serve"], subprocess.PIPE) as serving:
            line = serving.stdout.readline() if serving.stdout else ""
            if not line.strip().isdigit():
                sys.exit(f"matrix: the server of {server} does not start")
            with interop.switch(int(line)) as through:
                for client in clients:
                    direct, passed = play(client, int(line)), play(client, through)
                    cases = dict.fromkeys([*direct, *passed])
                    cells += [Cell(client, server, c, direct.get(c), passed.get(c)) for c in cases]
    return cells


def report(cells: Sequence[Cell], clients: Sequence[str], servers: Sequence[str]) -> bool:
    """Print the table of cells that are alike, and what is odd; say whether all are."""
    print("matrix, alike of " + f"{CASES:<4}" + "".join(f"{server:>10}" for server in servers))
    for client in clients:
        row = [sum(c.alike for c in cells if c[:2] == (client, server)) for server in servers]
        print(f"  {client + ' client':<19}" + "".join(f"{count:>10}" for count in row))
    for cell in cells:
        if not cell.alike:
            print(f"  {cell.client} at {cell.server}, {cell.case}: {cell.direct} | {cell.through}")
    failing: dict[str, list[str]] = {}
    for cell in cells:
        if cell.alike and cell.fails:
            failing.setdefault(cell.case, []).append(f"{cell.client} at {cell.server}")
    for case, where in failing.items():
        print(f"  fails both ways, {case}: {', '.join(where)}")
    alike, wanted = sum(cell.alike for cell in cells), CASES * len(clients) * len(servers)
    print(f"matrix: {alike} of {wanted} cells alike")
    return alike == wanted


def run() -> bool:
    """Play the whole matrix with what this machine has; say whether all cells are alike."""
    known = known_stacks()
    return report(matrix(known, known), known, known)


if __name__ == "__main__":
    sys.exit(not run())
