"""The program `tei-engine`: flags in, a served model out, an exit code at the end.

0 after a stop by signal, 1 with one sentence on stderr when the model or a port cannot be had, 2
for a mistake on the command line.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence

from tei_manager.engine.flags import Flags, parse_flags
from tei_manager.engine.logs import LEVEL_VARIABLE, start_logging

# How shells report a program that SIGINT ended, here while the model was still loading.
_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the engine until a signal and return the exit code.

    Args:
        argv: Without the program's name; the process's own if ``None``.
    """
    flags = parse_flags(argv, os.environ)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what goes wrong there is reported from here
    # NumPy's products are a pooled vector's; threads for them would only wait, spinning.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    start_logging(os.environ.get(LEVEL_VARIABLE, "info"), as_json=flags.json_output)
    try:
        return _run(flags)
    except ImportError as error:
        return _fail(f"{error}; install the engine's packages: pip install 'tei-manager[engine]'")
    except KeyboardInterrupt:
        return _INTERRUPTED


def _run(flags: Flags) -> int:
    """Load and serve; the heavy imports wait until the command line is known to be right."""
    import uvloop

    from tei_manager.engine.loading import load
    from tei_manager.engine.model import ModelUnusable
    from tei_manager.engine.server import StartFailed, serve

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(load(flags), flags))
    except (ModelUnusable, StartFailed) as error:
        return _fail(str(error))
    return 0


def _fail(sentence: str) -> int:
    sys.stderr.write(f"Error: {' '.join(sentence.split())}\n")  # names may have line ends
    return 1
