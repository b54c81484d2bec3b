"""``tei-engine``, writing the batches that it runs into a file, so that they can be run again bare.

    python -m benchmarks.engine_recorded FILE [FLAGS OF TEI-ENGINE ...]

A line is a batch: its texts' token ids as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tei_manager.engine import loading
from tei_manager.engine.encoder import Encoder, Output
from tei_manager.engine.main import main
from tei_manager.engine.tokenizer import TokenIds


def record(file: Path) -> None:
    """Let every batch from now on be written down."""
    lines = file.open("a")

    class Recorder(Encoder):
        def run(self, batch: Sequence[TokenIds]) -> list[Output]:
            lines.write(json.dumps([text.ids for text in batch]) + "\n")
            lines.flush()
            return super().run(batch)

    loading.Encoder = Recorder  # type: ignore[attr-defined]


if __name__ == "__main__":
    record(Path(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
