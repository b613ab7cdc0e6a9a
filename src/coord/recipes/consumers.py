"""The consumers of one queue: a key each, under the lease of its session, and everybody's view of them.

It decides nothing but who tries an item first (:mod:`coord.recipes.turns`), so whatever fails here costs requests only.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from coord.cache import Cache
from coord.cache.mirror import Limits
from coord.entry import META_PREFIX
from coord.errors import CoordError, PermissionDenied, SessionError
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.caller import Repeat
from coord.store.keys import prefix_range
from coord.waiter import while_valid

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.turns import Turns
    from coord.session import Session

_RETRY_LOW_S, _RETRY_HIGH_S = 0.2, 2.0
_LIMITS = Limits(max_keys=100_000, max_bytes=1 << 26)
_FAREWELL_S = 1.0


def consumers_of(name: bytes) -> bytes:
    """Return the prefix of the consumers' keys."""
    return META_PREFIX + b"consumers/" + name + b"/"


class Enrolment:
    """Keeps one consumer known to the others, and the others to it. On the runtime's loop."""

    def __init__(self, home: Coordination, mirrors: Mirrors, name: bytes, turns: Turns) -> None:
        self._home = home
        self._mirrors = mirrors
        self._prefix = consumers_of(name)
        self._turns = turns
        self._task: asyncio.Task[object] | None = None
        self._is_putting = False
        self._ended = False
        self._mine: tuple[bytes, int] | None = None

    def begin(self) -> None:
        """Enrol in the background. Safe to call twice."""
        if self._task is None:
            self._task = self._home.background(self._run(), name="queue-consumers")

    async def end(self) -> None:
        """Take our key away, if the store answers soon."""
        self._ended = True
        task, self._task = self._task, None
        if task is not None:
            if self._is_putting:  # else it may land after we have taken it away
                await asyncio.wait({task}, timeout=_FAREWELL_S)
            task.cancel()
        mine, self._mine = self._mine, None
        if mine is not None:
            key, lease = mine
            with contextlib.suppress(CoordError):  # it goes with its lease
                await self._home.txn.run(
                    (compare.lease(key) == lease,),
                    (op.delete(key),),
                    repeat=Repeat.IDEMPOTENT,
                    timeout=_FAREWELL_S,
                )

    async def _run(self) -> None:
        while not self._ended:
            try:
                session = await self._home.session_or_default(None)
                if not await self._enrol(session):
                    return
                await while_valid(session, self._look_on(session))
            except PermissionDenied:
                return  # no rights to these keys: everybody tries at once
            except (CoordError, SessionError):
                await self._home.pause(_RETRY_LOW_S, _RETRY_HIGH_S)

    async def _enrol(self, session: Session) -> bool:
        """Put our key; say whether we go on."""
        if self._ended:
            return False
        key = self._prefix + format(session.lease_id, "x").encode()
        self._mine = key, session.lease_id
        self._is_putting = True
        try:
            await self._home.txn.run(
                (), (op.put(key, b"", lease=session.lease_id),), repeat=Repeat.IDEMPOTENT
            )
        finally:
            self._is_putting = False
        return not self._ended

    async def _look_on(self, session: Session) -> None:
        own = self._prefix + format(session.lease_id, "x").encode()
        start, end = prefix_range(self._prefix)
        view: Cache[bytes] = Cache(
            self._mirrors, start, end, codec=None, limits=_LIMITS, timeout=None
        )
        await view.open()
        try:
            changes = view.changes()
            self._turns.update(view.snapshot().keys(), own)
            async for _ in changes:
                self._turns.update(view.snapshot().keys(), own)
        finally:
            view.close()
