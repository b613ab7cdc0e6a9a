"""Virtual time for our own tests, from where users have it."""

from coord.testing.virtual import (
    InlineOffload,
    VirtualClock,
    VirtualLoop,
    run_virtual,
    virtual_env,
)

__all__ = ["InlineOffload", "VirtualClock", "VirtualLoop", "run_virtual", "virtual_env"]
