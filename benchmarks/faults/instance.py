"""The backend's process in the hands of a fault: started, killed, frozen, and listened to."""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from benchmarks.processes import START_SECONDS, free_port

Event = dict[str, Any]


class Instance:
    """One address, and at most one process that serves it.

    Ownership:
        Use `backend`, which kills the process at the end.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.Queue[Event] = queue.Queue()

    def start(self) -> float:
        """Start the process; returns the time from which on it listened."""
        argv = [sys.executable, "-m", "benchmarks.faults.backend", str(self.port)]
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self._events = queue.Queue()
        reader = threading.Thread(target=_read, args=(self._process.stdout, self._events))
        reader.daemon = True
        reader.start()
        return float(self.next("listening", START_SECONDS)["at"])

    def kill(self) -> None:
        """End the process as the kernel does when memory is short; it is reaped."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None

    def freeze(self) -> None:
        """Let it hold its connections and do nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def next(self, event: str, limit: float = 5.0) -> Event:
        """Wait for the next event of a name; those before it are dropped.

        Raises:
            TimeoutError: It did not come within ``limit`` seconds of the event before.
        """
        while True:
            try:
                found = self._events.get(timeout=limit)
            except queue.Empty:
                raise TimeoutError(f"the backend saw no {event!r} within {limit} s") from None
            if found["event"] == event:
                return found

    def sent_when_quiet(self, quiet: float = 0.5, limit: int = 100) -> int:
        """Wait until floods send nothing more for ``quiet`` seconds; returns all octets sent.

        ``limit`` bounds how many reports are waited for, of which there are ten a second.
        """
        octets = 0
        for _ in range(limit):
            try:
                octets = self.next("sent", quiet)["octets"]
            except TimeoutError:
                break
        return octets

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


def _read(output: IO[str], events: queue.Queue[Event]) -> None:
    for line in output:
        events.put(json.loads(line))
    output.close()


@contextmanager
def backend() -> Iterator[Instance]:
    """Run a backend on a port of its own until the block ends."""
    instance = Instance(free_port())
    try:
        instance.start()
        yield instance
    finally:
        instance.kill()
