"""Where the tests' stand-ins are, for measurements that use them as well."""

from __future__ import annotations

from pathlib import Path

FAKES = str(Path(__file__).parents[1] / "tests" / "fakes")
"""To be put on ``sys.path`` before their modules are imported."""
