"""Who sees to which jobs: what a scheduler needs of that, and the ways to decide it.

The jobs are dealt out in *shares*, by a checksum of their names. An owner tells the engine which shares are its own, and
under which grants: each start compares its grant, so that one who has lost a share without knowing begins nothing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from coord.election import Election
from coord.errors import (
    AmbiguousResult,
    CoordTimeout,
    LeadershipLost,
    SessionError,
    Unavailable,
)
from coord.runtime import finish

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.grants import Grant
    from coord.session import Session

_REJOIN_LOW_S, _REJOIN_HIGH_S = 0.05, 1.0
_RELEASE_WITHIN_S = 5.0


class Schedulers(Protocol):
    """What an owner tells its engine. On the runtime's loop."""

    def gained(self, share: int, grant: Grant) -> None:
        """See to a share from now on."""
        ...

    def dropped(self, share: int, grant: Grant) -> None:
        """Leave a share alone that was lost."""
        ...

    async def leave(self, share: int, within: float) -> None:
        """Begin nothing more of a share, and wait until nothing of it runs."""
        ...


class Owner(Protocol):
    """A way to decide who sees to which jobs."""

    @property
    def shares(self) -> int:
        """How many shares there are; all schedulers of a cron must agree on it."""
        ...

    async def run(self, schedulers: Schedulers) -> None:
        """Get shares and give them back, until cancelled; then give all of them back."""
        ...


class ElectedOwner:
    """One scheduler sees to everything, the others wait."""

    shares: int = 1

    def __init__(self, home: Coordination, cron: bytes, session: Session | None) -> None:
        self._home = home
        self._session = session
        self._election = Election(home, cron + b"/leader", session=session, within=cron)

    async def run(self, schedulers: Schedulers) -> None:
        """See :meth:`Owner.run`. Raises :class:`SessionExpired` when the session that it was given ends."""
        while True:
            try:
                term = await self._election.campaign()
            except SessionError:
                if self._session is not None:
                    raise
            except (Unavailable, CoordTimeout, AmbiguousResult, LeadershipLost):
                pass
            else:
                schedulers.gained(0, term)
                try:
                    await term.lost.wait()
                finally:
                    schedulers.dropped(0, term)
                    with contextlib.suppress(TimeoutError):
                        await finish(term.resign(), within=_RELEASE_WITHIN_S)
            await self._home.pause(_REJOIN_LOW_S, _REJOIN_HIGH_S)
