"""How many examples properties get: HYPOTHESIS_PROFILE is ``test`` or ``long``.

``long`` gives each HYPOTHESIS_EXAMPLES of them.
What states a number of its own is dear, and keeps it in both.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("test", max_examples=200, deadline=None)
settings.register_profile(
    "long",
    max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "10000")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))
