"""Play gRPC's interop clients against its interop servers, directly and through the switch.

    python tools/interop.py

`make conformance` runs this behind h2spec. The switch stands in between as it is used: one route,
``--passthrough any``, no target in the metadata. Each case must end through it as it ends directly;
one that fails both ways asks for something that the server at hand does not have.

Go's pair is taken from $GRPC_INTEROP, a folder with its ``client`` and ``server``, Ruby's from the
``grpc`` gem of the ``ruby`` on the PATH. What is missing is named and left out.

Not played: cases that need a cloud's credentials, and those about a choice among servers and their
reports of load (``pick_first_unary``, ``orca_*``), which need another server than these.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HOST = "127.0.0.1"

COMMON = (
    *("empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong"),
    *("empty_stream", "timeout_on_sleeping_server", "cancel_after_begin"),
    *("cancel_after_first_response", "status_code_and_message", "custom_metadata"),
    *("unimplemented_method", "unimplemented_service"),
)
"""Cases that every official client knows (doc/interop-test-descriptions.md of gRPC)."""

START_SECONDS = 30.0
CASE_SECONDS = 60.0
"""Limits on a busy machine. A case takes a second, most of which is the start of its program."""

GO = (
    "Go's pair is left out: GOBIN=DIR go install google.golang.org/grpc/interop/client@latest "
    "google.golang.org/grpc/interop/server@latest, and set $GRPC_INTEROP to DIR"
)
RUBY = "Ruby's pair is left out: the package is ruby-grpc on Debian, the gem grpc elsewhere"

_GEM = 'puts Gem::Specification.find_by_name("grpc").gem_dir'


class Pair(NamedTuple):
    """An official client and the server of its language, as commands, and the client's cases."""

    language: str
    client: list[str]
    server: list[str]
    cases: tuple[str, ...]


def pairs() -> list[Pair]:
    """Return the pairs that this machine has, and say which it has not."""
    found = []
    if folder := os.environ.get("GRPC_INTEROP"):
        more = ("special_status_message", "rpc_soak", "channel_soak")
        found.append(Pair("go", [f"{folder}/client"], [f"{folder}/server"], (*COMMON, *more)))
    else:
        print(GO)
    if gem := _gem_folder():
        client, server = (["ruby", str(gem / name)] for name in ("client.rb", "server.rb"))
        compressed = ("client_compressed_unary", "client_compressed_streaming")
        found.append(Pair("ruby", client, server, (*COMMON, *compressed)))
    else:
        print(RUBY)
    return found


def _gem_folder() -> Path | None:
    ruby = shutil.which("ruby")
    asked = ruby and subprocess.run([ruby, "-e", _GEM], capture_output=True, text=True, timeout=30)
    folder = Path(asked.stdout.strip()) / "src/ruby/pb/test" if asked else None
    return folder if folder and (folder / "client.rb").is_file() else None


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server((HOST, 0)) as listening:
        return int(listening.getsockname()[1])


@contextlib.contextmanager
def running(
    command: Sequence[str], stdout: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    """Run a program, and kill it at the end."""
    process = subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def official(command: list[str]) -> Iterator[int]:
    """Run an official server; yields its port once it listens."""
    port = free_port()
    with running([*command, f"--port={port}"]) as server:
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1):
                break
            if time.monotonic() > until or server.poll() is not None:
                sys.exit(f"interop: {' '.join(command)} does not start")
            time.sleep(0.05)
        yield port


@contextlib.contextmanager
def switch(port: int) -> Iterator[int]:
    """Run a worker that passes everything on to a port; yields its own."""
    flags = ("--listen", f"{HOST}:0", "--route", f"server={HOST}:{port}", "--passthrough", "any")
    command = [sys.executable, "-m", "tei_manager", "mux", *flags]
    with running(command, subprocess.PIPE) as worker:
        line = worker.stdout.readline() if worker.stdout else ""
        listens = re.search(rf"{re.escape(HOST)}:(\d+)", line)
        yield int(listens[1]) if listens else sys.exit("interop: the switch does not start")


def passes(client: list[str], port: int, case: str) -> bool:
    """Play one case against a port."""
    flags = [f"--server_host={HOST}", f"--server_port={port}", f"--test_case={case}"]
    if case.endswith("_soak"):
        flags += ["--soak_iterations=100", "--soak_overall_timeout_seconds=50"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        ran = subprocess.run([*client, *flags], capture_output=True, timeout=CASE_SECONDS)
        return ran.returncode == 0
    return False


def compare(client: Pair, direct: int, through: int) -> tuple[str, bool]:
    """Play a client's cases against a server and against the switch before it.

    Returns:
        The score in words, and whether every case ends alike and the common ones pass.
    """
    ends = {
        case: [passes(client.client, p, case) for p in (direct, through)] for case in client.cases
    }
    passed = [case for case, both in ends.items() if both == [True, True]]
    neither = [case for case, both in ends.items() if both == [False, False]]
    differ = [case for case, both in ends.items() if both[0] != both[1]]
    score = f"{len(passed)} of {len(ends)} pass directly and through"
    for cases, what in ((neither, "neither way"), (differ, "one way only")):
        score += f"; {what}: {', '.join(cases)}" if cases else ""
    return score, not differ and {*COMMON} <= {*passed}


def play() -> bool:
    """Play all pairs that there are; print their scores, and say whether all are good."""
    good, known = True, pairs()
    for server in known:
        with official(server.server) as port, switch(port) as through:
            for client in known:
                score, fine = compare(client, port, through)
                print(f"interop, {client.language} client, {server.language} server: {score}")
                good &= fine
    return good


if __name__ == "__main__":
    sys.exit(not play())
