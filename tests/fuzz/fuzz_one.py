"""Run one fuzz target under atheris, which follows the branches that inputs take.

    python tests/fuzz/fuzz_one.py Z5 --runs 100000 --corpus .fuzz/Z5

Inputs that reach something new are kept in the corpus folder, so a later run goes on from there. An
input that breaks a rule is written into the folder above it, and the exit code is not 0.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "fakes")]

MEASURED_EVERY = 200
"""One input in so many is measured for its memory as well, which takes ten times as long."""


def main() -> None:
    """Fuzz until the runs are done or an input breaks a rule."""
    try:
        import atheris
    except ModuleNotFoundError:
        sys.exit("atheris is missing: it exists for Linux on x86-64, for Python 3.11 to 3.13")

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seconds", type=int, default=0, help="end after so long; 0: no limit")
    parser.add_argument("--corpus", type=Path, required=True)
    flags = parser.parse_args()
    with atheris.instrument_imports(include=["tei_manager"]):
        import corpus
        import targets
    corpus.write(flags.target, flags.corpus)
    count = 0

    def test_one(octets: bytes) -> None:
        nonlocal count
        count += 1
        targets.run_timed(flags.target, octets)
        if count % MEASURED_EVERY == 0:
            targets.run_measured(flags.target, octets)

    limits = [f"-runs={flags.runs}", f"-max_total_time={flags.seconds}"]
    limits += [f"-max_len={corpus.LONGEST}", f"-artifact_prefix={flags.corpus.parent}/"]
    atheris.Setup([sys.argv[0], *limits, "-print_final_stats=1", str(flags.corpus)], test_one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
