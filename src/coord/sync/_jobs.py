"""The twin of the part of a client that makes schedules of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord import client
from coord.sync._portal import Twin
from coord.sync.cron import Cron

if TYPE_CHECKING:
    from coord.recipes.cron.cron import Ownership


class JobCalls(Twin[client.Client]):
    """Scheduled jobs of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def cron(
        self,
        name: str | bytes,
        *,
        ownership: Ownership = "partitioned",
        history: float = 7 * 86400,
        ttl: int | None = None,
    ) -> Cron:
        """Return the schedule of jobs called ``name``; see :class:`Cron` and :meth:`coord.Client.cron`."""
        made = self._async.cron(name, ownership=ownership, history=history, ttl=ttl)
        return Cron(self._portal, made)
