"""The part of a client that makes schedules of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from coord.recipes.cron import Cron

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.cron.cron import Ownership
    from coord.session import Session


class JobCalls:
    """Scheduled jobs of a :class:`coord.Client`."""

    _home: Coordination
    _mirrors: Mirrors

    def cron(
        self,
        name: str | bytes,
        *,
        ownership: Ownership = "election",
        history: float = 7 * 86400,
        session: Session | None = None,
    ) -> Cron:
        """Return the schedule of jobs called ``name``; see :class:`Cron`.

        What became of a tick is kept for ``history`` seconds.
        """
        return Cron(
            self._home,
            self._mirrors,
            name,
            ownership=ownership,
            history=history,
            session=session,
        )
