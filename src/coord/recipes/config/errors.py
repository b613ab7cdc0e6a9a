"""What can be wrong with a configuration."""

from __future__ import annotations

from coord.errors import CoordError


class ConfigInvalid(CoordError):
    """A document does not fit its model, or its validator refuses it.

    ``revision`` is the one that wrote it, 0 if it was not written.
    """

    def __init__(self, name: bytes, reason: str, *, revision: int = 0) -> None:
        self.name = name
        self.reason = reason
        self.revision = revision
        where = f" at revision {revision}" if revision else ""
        super().__init__(f"invalid configuration {name!r}{where}: {reason}")


class ConfigUnavailable(CoordError):
    """There is no configuration to be had: none was published, or neither the store nor a snapshot can tell."""

    def __init__(self, name: bytes, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"no configuration {name!r}: {reason}")
