"""The twin of a one-way event."""

from __future__ import annotations

from coord import signals
from coord.sync._portal import Twin


class OneShot(Twin[signals.OneShot]):
    """Something that happens once, with a reason: the loss of a grant, the end of a session."""

    __slots__ = ()

    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._async.is_set()

    @property
    def reason(self) -> str | None:
        """Why it happened, None before."""
        return self._async.reason

    def wait(self, *, timeout: float | None = None) -> str:
        """Wait until it happens and return the reason. Raises :class:`coord.CoordTimeout` after ``timeout`` seconds."""
        return self._portal.call(self._async.wait(timeout=timeout))
