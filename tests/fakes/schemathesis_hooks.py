"""What schemathesis must not try for long: logs that are followed for ever, and waits."""

from __future__ import annotations

import contextlib
from typing import Any

import schemathesis

# Seconds that stand for every wait which is allowed.
SHORT = 0.1


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Make a request patient no longer than `SHORT`; one that is wrong stays wrong."""
    query = case.query if isinstance(case.query, dict) else {}
    if str(query.get("follow")).lower() in ("true", "1", "on", "t", "y", "yes"):
        query["follow"] = "false"
    with contextlib.suppress(TypeError, ValueError):
        if SHORT < float(query.get("wait", 0)) <= 600:
            query["wait"] = SHORT
