"""The part of a client that makes sessions and recipes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from coord.election import Election
from coord.mutex import Mutex
from coord.session import Session
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.coordination import Coordination


class RecipeCalls:
    """Sessions, mutexes and elections of a :class:`coord.Client`."""

    _home: Coordination

    def session(
        self,
        *,
        ttl: int = 15,
        lease_id: int | None = None,
        critical: bool = False,
        liveness: Literal["loop"] | Callable[[], bool] | None = None,
        liveness_timeout: float | None = None,
        name: str | None = None,
    ) -> Session:
        """Return a session, to be opened with ``async with`` or ``await session.open()``.

        ``ttl`` in seconds; the server raises short ones to its minimum.
        ``lease_id`` adopts a lease that exists, for example one that another process orphaned.
        ``critical=True`` renews on a stream of its own.
        ``liveness`` ties the session to a proof that the application is alive: ``"loop"``, that the loop which called
        this still runs, or a function that returns True; without a proof for ``liveness_timeout`` seconds (default:
        the TTL) renewals stop and the session expires as ``unhealthy``.
        """
        session = Session(
            self._home,
            ttl=ttl,
            lease_id=lease_id,
            critical=critical,
            liveness=liveness,
            liveness_timeout=liveness_timeout,
            name=name,
        )
        if liveness == "loop":
            session.beat_on(asyncio.get_running_loop())
        return session

    async def default_session(self) -> Session:
        """Return the session that mutexes and elections use when they are given none.

        Opened when first needed; replaced after it expired.
        """
        return await self._home.run(self._home.session_or_default(None))

    def mutex(
        self,
        name: str | bytes,
        *,
        session: Session | None = None,
        reentrant: bool = False,
        lock_delay: float = 0,
        layout: Literal["line", "single-key"] = "line",
        detect_deadlocks: bool = False,
        label: str | None = None,
    ) -> Mutex:
        """Return the lock called ``name``; see :class:`Mutex`. ``label`` is shown to those who inspect the line.

        ``lock_delay``: seconds that a new holder is made to wait when the one before it did not release, but lost the
        lock; all users of a name should give the same. Needs the store's rights on ``_coord/``.
        ``layout="single-key"``: the lock is the key ``name`` itself, as many programs have it; whoever creates it next
        has it next, in no order.
        ``detect_deadlocks``: look for circles of waits, and raise :class:`DeadlockDetected` in one of those who wait.

        Raises :class:`PayloadTooLarge` for a label above the client's ``max_value_bytes``.
        """
        if label is not None:
            to_value(label, "the lock's label", self._home.txn.max_value_bytes)
        return Mutex(
            self._home,
            name,
            session=session,
            reentrant=reentrant,
            lock_delay=lock_delay,
            layout=layout,
            detect_deadlocks=detect_deadlocks,
            label=label,
        )

    def election(self, name: str | bytes, *, session: Session | None = None) -> Election:
        """Return the election called ``name``; see :class:`Election`."""
        return Election(self._home, name, session=session)
