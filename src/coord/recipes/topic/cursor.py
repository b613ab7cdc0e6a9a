"""How far a durable subscriber has come, and how old what it has not handled can be at most."""

from __future__ import annotations

import asyncio
import json
import math
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from coord.errors import CoordError, LeaseNotFound, Unavailable
from coord.recipes.topic.message import CursorBusy
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.txn import TxnResult

if TYPE_CHECKING:
    from coord.coordination import Coordination
    from coord.store.operations import Op
    from coord.store.values import KeyValue

_PARTS = 8
"""A lag below this part of the retention proves that nothing unhandled has expired."""
_MOST_MARKS = 64
_ATTEMPTS = 3


class Cursor:
    """The cursor of one subscriber. On one loop.

    The lag is bounded by *marks*: requests sent at a known time that were answered at a known revision. Whatever has
    a higher revision was committed later than that request was sent.
    """

    def __init__(
        self, home: Coordination, topic: bytes, subscriber: str, *, retention: float
    ) -> None:
        self._home = home
        self._core = home.core
        self._topic = topic
        self._subscriber = subscriber
        self._key = topic + b"/cursors/" + subscriber.encode()
        self._log = topic + b"/log/"
        self._retention = retention
        self.revision: int = 0
        """Everything up to it is handled."""
        self._stored = 0  # the key's mod revision
        self._lease = 0
        self._leased = 0.0
        self._marks: deque[tuple[float, int]] = deque()
        self._saving = asyncio.Lock()
        self._doubt: tuple[int, tuple[Op, ...]] | None = None  # what was sent, and not answered yet
        self._base: float | None = None  # what is unhandled was committed after this time

    async def load(self, *, timeout: float | None) -> bool:
        """Read it; say whether there is one."""
        sent = self._core.env.clock.mono()
        found, revision = await self._read(timeout)
        self.mark(sent, revision)
        if found is None:
            return False
        self._stored = found.mod_revision
        self.revision, _ = _parsed(found)
        return True

    async def proves(self, *, timeout: float | None = None) -> tuple[bool, int]:
        """Return the store's revision, and whether all that is unhandled and was ever published is there at it.

        It is if this cursor is, for it lives no longer than a retention after its lag was measured.
        """
        found, revision = await self._read(timeout)
        if found is None or found.mod_revision != self._stored:
            return False, revision
        return _parsed(found)[1] < self._retention / _PARTS, revision

    async def _read(self, timeout: float | None) -> tuple[KeyValue | None, int]:
        result = await self._core.txn.run((), (op.get(self._key),), timeout=timeout)
        items = result.range(0).items
        return items[0] if items else None, result.revision

    def mark(self, sent: float, revision: int) -> None:
        """Note that a request sent at ``sent`` was answered at ``revision``."""
        if len(self._marks) < _MOST_MARKS:
            self._marks.append((sent, revision))

    def _lag_at(self, revision: int) -> float:
        """Seconds that what comes after ``revision`` can have waited at most; infinite while that is not known."""
        known = [sent for sent, at in self._marks if at <= revision]
        base = max(known, default=self._base)
        if base is None:
            return math.inf
        return max(0.0, self._core.env.clock.mono() - max(base, self._base or 0.0))

    async def save(self, revision: int, also: tuple[Op, ...], *, timeout: float | None) -> None:
        """Store that everything up to ``revision`` is handled, together with ``also``.

        Raises :class:`CursorBusy` if another consumer has stored something since.
        """
        async with self._saving:
            for _ in range(_ATTEMPTS):
                revision = max(revision, self.revision)
                await self._renew(timeout)
                try:
                    if await self._save(revision, also, timeout):
                        return
                except LeaseNotFound:
                    if not await self._has_ended(timeout):
                        raise  # of a lease that ``also`` names
        raise Unavailable("the lease of the cursor keeps ending")

    async def _save(self, revision: int, also: tuple[Op, ...], timeout: float | None) -> bool:
        """Store it; say whether that was done, else the cursor had expired and can be made again."""
        sent = self._core.env.clock.mono()
        lag = self._lag_at(revision)
        write = self._write(revision, lag)
        if lag < self._retention:
            # Nothing unhandled can have expired: if nothing of it is there, nothing is unhandled.
            nothing = compare.create_revision(self._log, prefix=True) < revision + 1
            write = op.txn((nothing,), (self._write(revision, 0.0),), (write,))
        again = bool(also) and self._doubt == (revision, also)
        self._doubt = (revision, also)
        marked = await self._core.markers.run(
            (compare.mod_revision(self._key) == self._stored,),
            (write, *also),
            (op.get(self._key),),
            timeout=timeout,
        )
        if not marked.applied:
            items = () if marked.result is None else marked.result.range(0).items
            done = self._refused(items[0] if items else None, revision, again=again)
            self._doubt = None
            return done
        self._doubt = None
        self._stored, self.revision = marked.revision, revision
        answer = None if marked.result is None else marked.result.responses[0]
        while self._marks and self._marks[0][1] <= revision:
            self._base = max(self._base or 0.0, self._marks.popleft()[0])
        if isinstance(answer, TxnResult) and answer.succeeded:
            self._base = sent
        self.mark(sent, marked.revision)
        return True

    def _refused(self, found: KeyValue | None, revision: int, *, again: bool) -> bool:
        """Learn what is there instead of what was expected; say whether that is what was to be stored.

        It may be if this is ``again`` the very call whose outcome was not known.
        """
        if found is None:
            self._stored = 0  # expired while nobody saved
            return False
        if not self._lease or found.lease != self._lease:
            raise CursorBusy(self._topic, self._subscriber)
        # Our own: of a call that was cancelled, or whose outcome was not known.
        self._stored = found.mod_revision
        self.revision = max(self.revision, _parsed(found)[0])
        return again and _parsed(found)[0] == revision

    def _write(self, revision: int, lag: float) -> Op:
        shown = None if math.isinf(lag) else round(lag, 3)
        body = json.dumps({"revision": revision, "lag": shown}, separators=(",", ":"))
        return op.put(self._key, body, lease=self._lease)

    async def _renew(self, timeout: float | None) -> None:
        """See to a lease that ends at most a retention after the coming save: so never renew after one."""
        now = self._core.env.clock.mono()
        if self._lease and now < self._leased + self._retention / _PARTS:
            return
        if self._lease:
            left = await self._home.run(
                self._core.leases.keep_alive_once(self._lease, timeout=timeout)
            )
            if left > 0:
                self._leased = now
                return
        granted = await self._core.leases.grant(max(1, int(self._retention)), timeout=timeout)
        self._lease, self._leased = granted.lease_id, now

    async def _has_ended(self, timeout: float | None) -> bool:
        info = await self._core.leases.time_to_live(self._lease, timeout=timeout)
        if info.remaining is not None:
            return False
        self._lease = 0
        return True


def _parsed(kv: KeyValue) -> tuple[int, float]:
    try:
        given = cast("dict[str, Any]", json.loads(kv.value))
        lag = given["lag"]
        return int(given["revision"]), math.inf if lag is None else float(lag)
    except (ValueError, TypeError, KeyError) as error:
        raise CoordError(f"{kv.key!r} is no cursor: {error}") from error
