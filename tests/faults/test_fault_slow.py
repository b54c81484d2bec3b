"""Slow peers wait for the server, and for nothing that they caused themselves."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.faults import slow
from benchmarks.faults.calls import outcomes
from benchmarks.faults.requests import HEAD, HELLO
from benchmarks.faults.servers import Server
from tei_manager.wire import frames

LIMIT = 3.0
CALL = frames.header_frames(1, HEAD, False, frames.DEFAULT_MAX_FRAME)


class Answering(socketserver.StreamRequestHandler):
    """Says hello; resets a call, and closes a connection whose preface is broken."""

    def handle(self) -> None:
        self.wfile.write(frames.settings({frames.MAX_CONCURRENT_STREAMS: 100}))
        got = b""
        while data := self.request.recv(65_536):
            got += data
            if not HELLO.startswith(got[: len(HELLO)]):
                return
            if got == HELLO + frames.SETTINGS_ACK + CALL:
                self.wfile.write(frames.rst_stream(1, frames.ErrorCode.CANCEL))


@pytest.fixture
def server() -> Iterator[Server]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answering) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        process = psutil.Process()
        yield Server("answering", listening.server_address[1], process, process)
        listening.shutdown()
        thread.join()


def test_only_what_the_server_acts_on_has_a_time(server: Server) -> None:
    rows = slow.run([server], LIMIT)["answering"]
    acted = {kind: row["how"] for kind, row in rows.items()}
    assert acted == {**dict.fromkeys(slow.KINDS, "nothing"), "a call without DATA": "RST_STREAM"}
    assert {row["how"] for row in rows.values() if row["seconds"] is None} == {"nothing"}
    assert rows["a call without DATA"]["seconds"] < LIMIT


def test_outcomes_that_differ_are_counted() -> None:
    summed = outcomes([("OK", 1.0), ("UNAVAILABLE", 9.0), ("OK", 2.0)])
    assert summed["status"] == "2 x OK, 1 x UNAVAILABLE"
    assert (summed["median_ms"], summed["worst_ms"], summed["samples"]) == (2.0, 9.0, 3)
    assert outcomes([("OK", 1.0)])["status"] == "OK"
