"""Names of recipes that would count each other's keys (spec recipes C1).

The entries of a name are the keys under ``name/``. So ``jobs`` and ``jobs/nightly`` cannot both be names: whoever waits
in the line of the first would count the second's entries as well.
"""

from __future__ import annotations

from coord.errors import NameConflict


class Names:
    """The names that one client has used, in debug mode."""

    def __init__(self) -> None:
        self._known: set[bytes] = set()
        self._parts: set[tuple[bytes, bytes]] = set()

    def own(self, name: bytes, part: bytes) -> None:
        """Let a recipe have another one below its name, whose keys it does not count."""
        self._parts.add((name, name + part))

    def claim(self, name: bytes) -> None:
        """Note a name. Raises :class:`NameConflict` when it lies above or below another one."""
        for other in self._known:
            if (name, other) in self._parts or (other, name) in self._parts:
                continue
            if name.startswith(other + b"/") or other.startswith(name + b"/"):
                raise NameConflict(as_text(name), as_text(other))
        self._known.add(name)


def as_text(raw: bytes) -> str:
    """Return a name or a key for messages, with what is no UTF-8 written as escapes."""
    return raw.decode(errors="backslashreplace")
