"""Build the example of each stack whose toolchain is here, by the commands that its README prints.

    python tools/build_examples.py

This is what `make examples` does first; it needs the network once. A README in ``examples/`` prints
two console blocks: the commands that build, and those that run what was built.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"

BUILT = {
    "rust": Path("target/debug/tei-manager-example"),
    "go": Path("build/example"),
    "node": Path("node_modules"),
}
"""What building leaves in the folder of each stack; Python's programs need none of it."""


def commands(stack: str) -> tuple[list[str], list[str]]:
    """Return what a stack's README says to type, in the stack's folder.

    Args:
        stack: The name of a folder in ``examples/``.

    Returns:
        The commands that build, and those that run.
    """
    text = (EXAMPLES / stack / "README.md").read_text("utf-8")
    build, run = re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)
    return re.findall(r"^\$ (.*)$", build, re.M), re.findall(r"^\$ (.*)$", run, re.M)


def build(stack: str) -> None:
    """Build a stack's example, or say which toolchain is not here."""
    lines, _ = commands(stack)
    toolchain = lines[0].split()[0]
    if shutil.which(toolchain) is None:
        print(f"examples/{stack} is left out: there is no {toolchain} on the PATH")
        return
    for line in lines:
        print(f"examples/{stack}: {line}", flush=True)
        subprocess.run(line, shell=True, cwd=EXAMPLES / stack, check=True)


def main() -> None:
    """Build all that can be built.

    Raises:
        SystemExit: A build failed; the tool itself has said why.
    """
    try:
        for stack in BUILT:
            build(stack)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{error.cmd!r} ended with exit code {error.returncode}")


if __name__ == "__main__":
    main()
