"""``python -m tei_manager`` is ``tei-manager``."""

from __future__ import annotations

from tei_manager.cli.main import main

if __name__ == "__main__":
    main()
