"""Scores of h2spec, the public suite of HTTP/2 cases, if it is on the PATH or $H2SPEC names it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.faults.servers import Server

MISSING = "h2spec (Go module github.com/summerwind/h2spec)"

CASE_SECONDS = "2"
"""How long a case waits for a frame that does not come: longer than Envoy keeps what it gave up."""

RUN_SECONDS = 300.0
"""Limit of one suite: 147 cases that all wait take as long."""

_SCORE = re.compile(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed")


def find() -> str | None:
    """Return the path of h2spec, None where there is none."""
    return shutil.which(os.environ.get("H2SPEC") or "h2spec")


def run(servers: Sequence[Server]) -> dict[str, Any]:
    """Run the strict suite against all servers at once; returns each one's score, by name."""
    binary = find()
    if binary is None or not servers:
        return {}
    with ThreadPoolExecutor(len(servers)) as threads:
        scores = list(threads.map(lambda server: _score(binary, server.port), servers))
    return {server.name: score for server, score in zip(servers, scores, strict=True)}


def _score(binary: str, port: int) -> dict[str, int]:
    argv = [binary, "--strict", "--timeout", CASE_SECONDS, "--host", "127.0.0.1", "-p", str(port)]
    ran = subprocess.run(
        argv, capture_output=True, encoding="utf-8", errors="replace", timeout=RUN_SECONDS
    )
    found = _SCORE.search(ran.stdout)
    if found is None:
        raise RuntimeError(f"h2spec said what is not understood:\n{ran.stdout[-2000:]}")
    return {"cases": int(found[1]), "passed": int(found[2])}
