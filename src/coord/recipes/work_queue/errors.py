"""What can go wrong with a work queue, beside what can with any request."""

from __future__ import annotations

from coord.errors import CoordError, CoordTimeout, LostError


class ClaimLost(LostError):
    """A claim on an item of a work queue was lost: stop working on it. Nothing was acknowledged with it."""

    noun = "claim on"


class ReceiveTimeout(CoordTimeout):
    """No item could be claimed in time. None is."""


class ConfMismatch(CoordError):
    """The consumers of a work queue do not agree on how it works.

    ``ours`` and ``theirs`` are the settings that differ, by name. Change all consumers together: stop them, delete the
    key ``NAME/conf``, start them with the new settings.
    """

    def __init__(self, name: str, ours: dict[str, object], theirs: dict[str, object]) -> None:
        self.name = name
        self.ours = ours
        self.theirs = theirs
        listed = ", ".join(f"{key}={ours[key]!r} (it has {theirs[key]!r})" for key in sorted(ours))
        super().__init__(f"work queue {name!r} works otherwise than asked for: {listed}")
