"""Several workers of a program that has none of its own."""

from __future__ import annotations

import os
import threading


def fork(workers: int) -> None:
    """Become so many processes; all but the first end when the first does.

    Called before anything else runs: a fork copies no thread and no event loop.
    """
    reading, writing = os.pipe()
    for _ in range(workers - 1):
        if os.fork() == 0:
            os.close(writing)
            threading.Thread(target=_end_behind, args=(reading,), daemon=True).start()
            return
    os.close(reading)  # the first keeps the other end open for as long as it lives


def _end_behind(reading: int) -> None:
    os.read(reading, 1)  # comes back when the first process, which never writes, is gone
    os._exit(0)
