"""Which event loop we run on: uvloop where it is installed, the standard one elsewhere."""

from __future__ import annotations

import asyncio
import sys


def new_loop() -> asyncio.AbstractEventLoop:
    """Return a fresh event loop, suitable as ``loop_factory`` of ``asyncio.Runner``."""
    if sys.platform != "win32":
        try:
            import uvloop  # optional, and 44 ms that only a running loop should pay
        except ImportError:
            pass
        else:
            return uvloop.new_event_loop()
    return asyncio.new_event_loop()
