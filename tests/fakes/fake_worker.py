"""A multiplexer worker that speaks the line protocol and nothing else.

It acknowledges every table and reports one connection and two calls for each instance that runs.
The folder of its control socket steers it: while there is a file ``mute`` it acknowledges nothing;
what is in a file ``hello`` comes over its own hello. It appends every table that it gets to the
file ``tables`` there, with the time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from tei_manager import __version__
from tei_manager.control import PROTOCOL, REPORT_SECONDS
from tei_manager.telemetry.counters import Counters


def say(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    writer.write(json.dumps(document).encode() + b"\n")


class FakeWorker:
    def __init__(self, folder: Path, listeners: list[int], options: dict[str, Any]) -> None:
        self._folder, self._listeners = folder, listeners
        self._hello = {
            "type": "hello",
            "pid": os.getpid(),
            "version": __version__,
            "protocol": PROTOCOL,
            "options": options,
        }
        if (folder / "hello").exists():
            self._hello |= json.loads((folder / "hello").read_text())
        self._counters = Counters()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        greeting = json.dumps(self._hello).encode() + b"\n"
        raw = socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno()))
        with raw, contextlib.suppress(OSError):  # whoever knocked may be gone again
            socket.send_fds(raw, [greeting], self._listeners)
        reports = asyncio.create_task(self._report(writer))
        async for line in reader:
            self._take(writer, json.loads(line))
        reports.cancel()
        writer.close()

    async def _report(self, writer: asyncio.StreamWriter) -> None:
        while True:
            say(writer, {"type": "counters", "counters": self._counters.to_json()})
            await asyncio.sleep(REPORT_SECONDS)

    def _take(self, writer: asyncio.StreamWriter, table: dict[str, Any]) -> None:
        with (self._folder / "tables").open("a") as file:
            file.write(json.dumps({"at": time.time(), **table}) + "\n")
        self._counters.retain({route["name"] for route in table["routes"]})
        for route in table["routes"]:
            if route["state"] == "running":
                self._counters.opened(route["name"])
                self._counters.routed(route["name"], "embed")
                self._counters.finished("embed", 0, 0.001)
        say(writer, {"type": "counters", "counters": self._counters.to_json()})
        if not (self._folder / "mute").exists():
            say(writer, {"type": "applied", "version": table["version"]})


async def run(control: Path, worker: FakeWorker) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_unix_server(worker.serve, control)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen-fd", type=int, required=True, action="append")
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--config", type=json.loads, required=True)
    flags = parser.parse_args()
    worker = FakeWorker(flags.control.parent, flags.listen_fd, flags.config)
    asyncio.run(run(flags.control, worker))


if __name__ == "__main__":
    main()
