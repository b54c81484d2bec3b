"""``python -m tei_manager.engine``: the program `tei-engine`."""

from __future__ import annotations

import sys

from tei_manager.engine.main import main

sys.exit(main())
