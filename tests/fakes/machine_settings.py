"""How long state machines run: 50 steps, and a tenth of a property's runs but 200 at least."""

from __future__ import annotations

from hypothesis import settings

MACHINE = settings(max_examples=max(200, settings().max_examples // 10), stateful_step_count=50)
