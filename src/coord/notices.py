"""What a program is told once, beside the results of its calls: Python warnings of our own categories.

They are no errors: the call that met the cause goes on as if nobody had been told.
So they leave from the loop itself, outside of any call; where a filter turns them into exceptions, these end at the
loop's exception handler and break nothing.
Python shows each text once per process, on stderr; ``warnings.filterwarnings("ignore", category=...)`` silences a
category and ``logging.captureWarnings(True)`` sends all to the log.
"""

from __future__ import annotations

import asyncio
import warnings


class CoordWarning(RuntimeWarning):
    """Root of what ``coord`` warns of: nothing is wrong yet, and somebody should know."""


class KeyCountWarning(CoordWarning):
    """One recipe has more keys than coordination data has as a rule, 100,000: reading them costs time and memory."""


MANY_KEYS = 100_000
"""Keys of one recipe above which a :class:`KeyCountWarning` is due (spec recipes C16)."""


def notice(warning: CoordWarning) -> None:
    """Warn as soon as the running loop is free, outside of the call that goes on."""
    asyncio.get_running_loop().call_soon(_warn, warning)


def _warn(warning: CoordWarning) -> None:
    warnings.warn(warning, stacklevel=2)


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
