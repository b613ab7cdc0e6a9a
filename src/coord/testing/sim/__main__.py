"""``python -m coord.testing.sim``."""

from __future__ import annotations

import sys

from coord.testing.sim.cli import main

if __name__ == "__main__":
    sys.exit(main())
