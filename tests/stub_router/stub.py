"""A stand-in for text-embeddings-router: its flags and services, canned vectors, and vices.

    --ignore-sigterm     only SIGKILL ends it
    --fork               leaves a child behind that ignores SIGTERM, too
    --die-after=S        exits with code 7 after S seconds, with a last line in its log
    --die-if=FILE        exits with code 7 at the start, if the file is there
    --never-healthy      listens, but its health service never says SERVING
    --slow-start=S       listens after S seconds only
    --hang               answers nothing once it was healthy and SIGUSR1 came, until SIGUSR2
    --speak-http         answers HTTP/1 on its port
    --flood=MB           prints so many megabytes before it listens
    --broken             its health service says SERVING, and every real call fails

``--help`` is as quick as the router's own: what serves is loaded after the flags were read.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from pathlib import Path


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def read_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("model-id", "hostname", "revision", "dtype", "pooling", "uds-path", "die-if"):
        parser.add_argument(f"--{flag}")
    for flag in ("port", "prometheus-port", "max-batch-tokens", "max-concurrent-requests"):
        parser.add_argument(f"--{flag}", type=int)
    for flag in ("die-after", "slow-start", "flood"):
        parser.add_argument(f"--{flag}", type=float)
    for flag in ("json-output", "ignore-sigterm", "fork", "never-healthy", "hang", "speak-http",
                 "broken"):  # fmt: skip
        parser.add_argument(f"--{flag}", action="store_true")
    return parser.parse_args()


def fork_child() -> None:
    """Leave a child behind that only SIGKILL ends."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pause()
        os._exit(0)


def flood(megabytes: float) -> None:
    """Print whole lines, as fast as they are taken."""
    for _ in range(int(megabytes * 16)):
        sys.stdout.write(("x" * 1023 + "\n") * 64)
    say("the flood is over")


def main() -> None:
    flags = read_flags()
    say(f"environment: {sorted(os.environ)}")
    if flags.die_if and Path(flags.die_if).exists():
        say("Error: the stub finds the file that kills it")
        sys.exit(7)
    if flags.fork:
        fork_child()
    if flags.flood:
        flood(flags.flood)
    from stub_server import run  # heavy, and of no use to --help

    asyncio.run(run(flags))


if __name__ == "__main__":
    main()
