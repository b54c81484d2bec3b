"""Hold the switch against h2spec, on both sides, and against what gRPC's libraries say of it.

    python tools/conformance.py

This is what `make conformance` runs. ``h2spec`` plays the clients of a started ``tei-manager mux``,
once without TLS and once with it, ``h2specd`` the instances behind it; each is named by $H2SPEC and
$H2SPECD, or found on the PATH. A case of ``h2specd`` is a server on a port of its own, so the
switch has a route to each port, and ``h2specd`` starts this program with ``--call`` to make one
call through the switch to that port.
What follows is in `interop` and `matrix`; a program that is missing there is named and left out.

Known flaw: ``h2specd`` takes its client command apart at spaces, so neither the path of Python nor
that of this file may have one.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import trustme

import interop
import matrix
from tei_manager.routes import Route, RouteTable
from tei_manager.tls import Tls

HOST = "127.0.0.1"

NEEDED = {"h2spec": 147, "h2specd": 57}
"""Cases that must pass: all of h2spec 2.6, strict ones too, and all of h2specd's."""

PORTS = range(20_000, 32_000, 100)
"""Where to look for ports for h2specd's cases: below those that systems give to clients."""

CASES = 57
CASE_SECONDS = "1"
"""How long a case waits for a frame that does not come; on loopback a whole second is long."""

RUN_SECONDS = 300.0
"""Limit of one program's run; a good one takes ten seconds."""

GET = (
    "it is a Go module, github.com/summerwind/h2spec: clone it, run `go build -o ~/bin/ "
    "./cmd/h2spec ./cmd/h2specd` there, and put ~/bin on the PATH or set $H2SPEC and $H2SPECD"
)

_SCORE = re.compile(r"(\d+) tests, (\d+) passed, \d+ skipped, \d+ failed")
_ROUTE = "port-{}"

# After a connection broke the switch connects again by itself, at once. h2specd would take that
# for another try at its case, in which no call comes; so this worker waits until it is asked.
# And h2specd's answers have no content type: a call with such a one is cancelled with a reset and
# a PING, before the frames that its cases are about; so this worker takes them for gRPC's.
_WORKER = """
from tei_manager.mux.connector import Connector
from tei_manager.mux.worker import run_standalone
from tei_manager.routes import RouteTable
from tei_manager.wire.answers import ResponseHead
Connector.set_aside = lambda self, failure: None
ResponseHead.is_grpc = property(lambda head: head.status == 200)
run_standalone(("{host}", 0), RouteTable.from_json({table!r}), {options!r}, None)
"""


def fail(sentence: str) -> NoReturn:
    """End with one sentence on standard error and exit code 1."""
    sys.exit(f"make conformance: {sentence}")


def find(program: str) -> str:
    """Return the path of ``h2spec`` or ``h2specd``."""
    found = shutil.which(os.environ.get(program.upper()) or program)
    return found or fail(f"{program} is missing; {GET}")


def free_ports() -> range:
    """Return a row of ports, one for each case of h2specd, on which nothing listens."""
    for first in PORTS:
        ports = range(first, first + CASES)
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in ports:
                held.enter_context(socket.create_server((HOST, port)))
            return ports
    fail(f"there are no {CASES} free ports in a row between {PORTS.start} and {PORTS.stop}")


def certificate(folder: str) -> Tls:
    """Return TLS with a certificate of a CA that nobody knows, its files in a folder."""
    issued = trustme.CA().issue_cert(HOST)
    cert, key = Path(folder, "cert.pem"), Path(folder, "key.pem")
    cert.write_bytes(issued.cert_chain_pems[0].bytes())
    key.touch(0o600)
    key.write_bytes(issued.private_key_pem.bytes())
    return Tls(str(cert), str(key))


@contextlib.contextmanager
def switch(ports: range, tls: Tls | None = None) -> Iterator[str]:
    """Run a worker with a route to each port; yields the address for clients."""
    table = RouteTable(1, [Route(_ROUTE.format(port), host=HOST, port=port) for port in ports])
    options = {"tls": tls.to_json()} if tls else {}
    worker = _WORKER.format(table=table.to_json(), host=HOST, options=options)
    command = [sys.executable, "-c", worker]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline() if process.stdout else ""
        listens = re.search(rf"{re.escape(HOST)}:\d+", line)
        yield listens[0] if listens else fail("the switch does not start; it says why above")
    finally:
        process.kill()  # it has nothing to lose, and a drain would wait for half-dead connections
        process.communicate()


def score(program: str, arguments: list[str]) -> bool:
    """Run a program of the suite, print its score, and where it is too low what it said."""
    command = [find(program), "--strict", "--timeout", CASE_SECONDS, "--host", HOST, *arguments]
    try:
        ran = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", timeout=RUN_SECONDS
        )
    except subprocess.TimeoutExpired:
        fail(f"{program} did not end within {RUN_SECONDS:.0f} s")
    found = _SCORE.search(ran.stdout)
    passed = int(found[2]) if found else 0
    if passed < NEEDED[program]:
        print(re.sub(r"(?m)^accept tcp .*\n?", "", ran.stdout + ran.stderr))
    print(f"{program}: {found[0] if found else 'no score'}; {NEEDED[program]} must pass")
    return passed >= NEEDED[program]


def call(address: str, url: str) -> None:
    """Make one call through the switch at ``address`` to the server of a case; any end is fine."""
    import grpc

    from tei_manager.grpc.proto.tei.v1.tei_pb2 import EmbedRequest
    from tei_manager.grpc.proto.tei.v1.tei_pb2_grpc import EmbedStub

    port = url.rstrip("/").rpartition(":")[2]
    metadata = (("x-tei-instance", _ROUTE.format(port)),)
    with grpc.insecure_channel(address) as channel, contextlib.suppress(grpc.RpcError):
        EmbedStub(channel).Embed(EmbedRequest(inputs="x"), timeout=1.5, metadata=metadata)


def main() -> None:
    """Run everything; exit code 1 if one of the programs is not content."""
    for program in NEEDED:
        find(program)
    ports = free_ports()
    with (
        tempfile.TemporaryDirectory() as folder,
        switch(ports) as address,
        switch(ports, certificate(folder)) as secure,
    ):
        client = f"{sys.executable} {__file__} --call {address}"
        good = score("h2spec", ["--port", address.rpartition(":")[2]])
        good &= score("h2spec", ["--tls", "--insecure", "--port", secure.rpartition(":")[2]])
        good &= score("h2specd", ["--from-port", str(ports.start), "--exec", client])
    good &= interop.play()
    good &= matrix.run()
    if not good:
        fail("the switch breaks a rule that it used to keep; the cases with a cross say which")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--call"]:
        call(*sys.argv[2:])
    else:
        main()
