"""A multiplexer worker that speaks the line protocol and nothing else.

It acknowledges every table and reports one connection and two calls for each instance that runs.
The folder of its control socket steers it: while there is a file ``mute`` it acknowledges nothing.
It appends every table that it gets to the file ``tables`` there, with the time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from tei_manager.telemetry.counters import Counters


def say(writer: asyncio.StreamWriter, document: dict[str, Any]) -> None:
    writer.write(json.dumps(document).encode() + b"\n")


class FakeWorker:
    def __init__(self, folder: Path, stop: asyncio.Event) -> None:
        self._folder, self._stop = folder, stop
        self._counters = Counters()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        say(writer, {"type": "hello", "pid": os.getpid(), "version": "0.1.0"})
        async for line in reader:
            message = json.loads(line)
            if message["type"] == "drain":
                self._stop.set()
                break
            self._take(writer, message)
        writer.close()

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


async def run(control: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = await asyncio.start_unix_server(FakeWorker(control.parent, stop).serve, control)
    await stop.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen-fd", type=int, required=True)
    parser.add_argument("--control", type=Path, required=True)
    parser.add_argument("--config", type=json.loads, required=True)
    flags = parser.parse_args()
    os.fstat(flags.listen_fd)  # it was handed down
    asyncio.run(run(flags.control))


if __name__ == "__main__":
    main()
