"""Who sees to which jobs: what a scheduler needs of that, and the ways to decide it.

The jobs are dealt out in *shares*, by a checksum of their names. An owner tells the engine which shares are its own, and
under which grants: each start compares its grant, so that one who has lost a share without knowing begins nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Protocol

from coord.election import Election
from coord.errors import (
    AmbiguousResult,
    CoordError,
    CoordTimeout,
    LeadershipLost,
    SessionError,
    Unavailable,
)
from coord.recipes.partitioner import Partitioner
from coord.runtime import finish
from coord.session import Session

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.grants import Grant
    from coord.recipes.partitioner import Ownership

_REJOIN_LOW_S, _REJOIN_HIGH_S = 0.05, 1.0
_RELEASE_WITHIN_S = 5.0
_LEADER = b"/leader"
_PASSING = (Unavailable, CoordTimeout, AmbiguousResult, SessionError)
"""What may be otherwise the next time."""


SHARES = 64
"""Into how many shares partitioned jobs are dealt out; more schedulers than that have nothing to do."""


class Schedulers(Protocol):
    """What an owner tells its engine. On the runtime's loop."""

    def gained(self, share: int, grant: Grant) -> None:
        """See to a share from now on."""
        ...

    def dropped(self, share: int, grant: Grant) -> None:
        """Leave a share alone that was lost."""
        ...

    async def leave(self, share: int, grant: Grant) -> None:
        """Begin nothing more of a share; return when nothing is being begun."""
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

    def __init__(self, home: Coordination, cron: bytes, ttl: int | None) -> None:
        self._home = home
        self._name = cron + _LEADER
        home.own(cron, _LEADER)
        self._ttl = ttl

    async def run(self, schedulers: Schedulers) -> None:
        """See :meth:`Owner.run`."""
        while True:
            session: Session | None = None
            try:
                if self._ttl is not None:
                    session = Session(self._home, ttl=self._ttl, name="cron")
                    await session.open()
                election = Election(self._home, self._name, session=session)
                await self._lead(schedulers, election)
            except (*_PASSING, LeadershipLost):
                pass
            finally:
                if session is not None:
                    await _within_limits(session.shut())
            await self._home.pause(_REJOIN_LOW_S, _REJOIN_HIGH_S)

    async def _lead(self, schedulers: Schedulers, election: Election) -> None:
        term = await election.campaign()
        schedulers.gained(0, term)
        try:
            await term.lost.wait()
        finally:
            schedulers.dropped(0, term)
            await _within_limits(term.resign())


class PartitionedOwner:
    """The shares are divided among the schedulers."""

    shares: int = SHARES

    def __init__(self, home: Coordination, mirrors: Mirrors, cron: bytes, ttl: int | None) -> None:
        self._home = home
        self._mirrors = mirrors
        self._cron = cron
        self._ttl = ttl

    async def run(self, schedulers: Schedulers) -> None:
        """See :meth:`Owner.run`."""

        async def assigned(own: Ownership) -> None:
            share = int(own.partition)
            schedulers.gained(share, own)
            own.lost.watch(lambda: schedulers.dropped(share, own))

        async def revoked(own: Ownership) -> None:
            await schedulers.leave(int(own.partition), own)

        while True:
            partitioner = Partitioner(
                self._home, self._mirrors, self._cron, SHARES, ttl=self._ttl, max_moves=SHARES
            )
            with contextlib.suppress(*_PASSING):
                async with partitioner.run(assigned, revoked):
                    await asyncio.Event().wait()  # it comes back by itself when its session is lost
            await self._home.pause(_REJOIN_LOW_S, _REJOIN_HIGH_S)


async def _within_limits(release: Coroutine[Any, Any, object]) -> None:
    """Give something back, also when cancelled; else the end of its lease does."""
    with contextlib.suppress(TimeoutError, CoordError):
        await finish(release, within=_RELEASE_WITHIN_S)
