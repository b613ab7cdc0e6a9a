"""What can go wrong with a queue, beside what can with any request."""

from __future__ import annotations

from coord.errors import CoordTimeout, InvalidArgument


class QueueEmpty(CoordTimeout):
    """No item could be had in time. Nothing was taken."""


class BadPriority(InvalidArgument):
    """A priority is no whole number from 0, the most urgent, to 65535. Nothing was sent."""

    def __init__(self, priority: object) -> None:
        self.priority = priority
        super().__init__(f"a priority is a whole number from 0 to 65535, not {priority!r}")
