"""Everybody in line for a name: the keys under ``name/``, in order of their creation (spec recipes 3, 7, C16)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord import notices
from coord.errors import CoordTimeout
from coord.names import as_text
from coord.store.keys import prefix_range
from coord.store.paging import Pages

if TYPE_CHECKING:
    from coord.core import Core
    from coord.store.values import KeyValue

_ADVICE = "each look at the whole line reads all of them; divide the work over several names"


async def roster(core: Core, name: bytes, *, timeout: float | None) -> tuple[KeyValue, ...]:
    """Return the entries of the line, the first in line first, in pages of one revision.

    Warns once of a line that is very long. Raises :class:`CoordTimeout` after ``timeout`` seconds, and what a read
    raises, :class:`Compacted` when history went faster than the pages.
    """
    found: list[KeyValue] = []
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            async for page in Pages(core.kv, prefix_range(name + b"/")):
                found += page.items
    except TimeoutError:
        if not scope.expired():
            raise
        raise CoordTimeout(f"reading the line for {as_text(name)!r}", timeout) from None
    note_length(core, name, len(found))
    return tuple(sorted(found, key=_created))


def note_length(core: Core, name: bytes, count: int) -> None:
    """Warn once of a line with very many entries, of which there are ``count``."""
    if count > notices.MANY_KEYS:
        core.key_counts.note(f"the line for {as_text(name)!r}", count, _ADVICE)


def _created(kv: KeyValue) -> tuple[int, bytes]:
    return kv.create_revision, kv.key
