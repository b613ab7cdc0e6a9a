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

    def claim(self, name: bytes, within: bytes | None = None) -> None:
        """Note a name. Raises :class:`NameConflict` when it lies above or below another one.

        A part ``within`` another recipe, which leaves it alone, only must not meet a third one.
        """
        for other in self._known - {within}:
            if name.startswith(other + b"/") or other.startswith(name + b"/"):
                raise NameConflict(_text(name), _text(other))
        if within is None:
            self._known.add(name)


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
