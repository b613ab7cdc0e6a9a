"""The command ``coord-server``, also as ``python -m coord_server``: what comes before any other module."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# Containers that survive the youngest generation are nearly all modules or store, and live for ever:
# scanning them again and again costs more than the rare cycle that waits a little longer, and a fifth of
# the start. Reference counting frees requests and answers at once; only failed calls make cycles.
_GC_THRESHOLDS: Final = (50_000, 50, 100)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program on the words of the command line; see `coord_server.program.main`."""
    gc.set_threshold(*_GC_THRESHOLDS)
    from coord_server.program import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
