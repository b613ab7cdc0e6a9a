"""What a program is told once, beside the results of its calls: Python warnings of our own categories.

They are no errors: the call that met the cause goes on as if nobody had been told.
Where a filter turns them into exceptions, these go to the loop's exception handler and break nothing half-way.
Python shows each text once per process, on stderr; ``warnings.filterwarnings("ignore", category=...)`` silences a
category and ``logging.captureWarnings(True)`` sends all to the log.
"""

from __future__ import annotations

import asyncio
import warnings


class CoordWarning(RuntimeWarning):
    """Root of what ``coord`` warns of: nothing is wrong yet, and somebody should know."""


class RightsWarning(CoordWarning):
    """The store denies what a recipe can do without, but not as well: rights on the prefix ``_coord/``."""


class KeyCountWarning(CoordWarning):
    """One recipe has more keys than coordination data has as a rule, 100,000: reading them costs time and memory."""


MANY_KEYS = 100_000
"""Keys of one recipe above which a :class:`KeyCountWarning` is due (spec recipes C16)."""


def notice(warning: CoordWarning) -> None:
    """Warn. On a loop, to whose exception handler it goes when a filter makes an error of it."""
    try:
        warnings.warn(warning, stacklevel=2)
    except Exception as error:  # noqa: BLE001 - what filters and hooks of the application make of it
        asyncio.get_running_loop().call_exception_handler(
            {"message": "coord: a warning was raised as an error", "exception": error}
        )


class KeyCounts:
    """Warns of recipes with very many keys, once for each. For one client, on its runtime's loop."""

    def __init__(self) -> None:
        self._told: set[str] = set()

    def note(self, what: str, count: int, advice: str) -> None:
        """Take note of how many keys ``what`` has."""
        if count > MANY_KEYS and what not in self._told:
            self._told.add(what)
            notice(
                KeyCountWarning(
                    f"{what} has {count:,} keys, and more than {MANY_KEYS:,} are hardly coordination data: {advice}"
                )
            )
