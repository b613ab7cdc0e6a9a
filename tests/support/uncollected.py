"""For tests of what ends at once: by its owner's hand, not when Python looks for circles."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def uncollected() -> Generator[None]:
    """Switch the garbage collector off for a while."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
