"""The part of a client that makes schedules of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes.cron import Cron

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.cron.cron import Ownership


class JobCalls:
    """Scheduled jobs of a :class:`coord.Client`."""

    _home: Coordination
    _mirrors: Mirrors

    def cron(
        self,
        name: str | bytes,
        *,
        ownership: Ownership = "partitioned",
        history: float = 7 * 86400,
        ttl: int | None = None,
    ) -> Cron:
        """Return the schedule of jobs called ``name``; see :class:`Cron`.

        ``ownership``: ``"partitioned"`` deals the jobs out to all schedulers, ``"elected"`` lets one see to all of them
        and the others stand by; all schedulers of a cron must say the same.
        What became of a tick is kept for ``history`` seconds.
        ``ttl``: seconds after which the jobs of a scheduler that died go to others; None shares the client's default
        session.
        """
        return Cron(
            self._home,
            self._mirrors,
            name,
            ownership=ownership,
            history=history,
            ttl=ttl,
        )
