"""Waits for what another process does, which offers no event."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

POLL_S = 0.02


class WaitedTooLong(TimeoutError):
    """What was waited for did not come true in time."""


async def wait_until(
    holds: Callable[[], bool | Awaitable[bool]],
    *,
    what: str,
    within: float,
    poll_s: float = POLL_S,
) -> None:
    """Return once ``holds()`` is true, which may be a coroutine. Raises WaitedTooLong, which says ``what``."""
    try:
        async with asyncio.timeout(within):
            while True:
                answer = holds()
                if inspect.isawaitable(answer):
                    answer = await answer
                if answer:
                    return
                await asyncio.sleep(poll_s)
    except TimeoutError:
        raise WaitedTooLong(f"{what}: not within {within:g} s") from None
