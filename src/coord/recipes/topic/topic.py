"""Writing to a topic."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.entry import check_name
from coord.errors import CoordTimeout, InvalidArgument, LeaseNotFound, PayloadTooLarge
from coord.recipes.topic.cursor import Cursor
from coord.recipes.topic.message import encode
from coord.recipes.topic.subscription import Subscription
from coord.store import operations as op
from coord.store.keys import to_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from coord.coordination import Coordination
    from coord.recipes.topic.subscription import From
    from coord.watching import Watch

MAX_MESSAGE_BYTES = 64 * 1024
_SHORTEST_S = 10
_PARTS = 8
_ATTEMPTS = 3
# Between taking a lease and the write under it.
_SENDING_S = 15


class Topic:
    """A named, ordered log of messages. Made by ``client.topic(name)``; may be shared between tasks and threads.

    Everybody gets all messages, in the same order. For coordination, up to about a thousand messages a second and
    64 KiB each; not for bulk data.
    """

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        watch: Callable[[bytes, int], Watch],
        *,
        retention: float = 3600,
    ) -> None:
        if not retention >= _SHORTEST_S:
            raise InvalidArgument(f"retention must be at least {_SHORTEST_S} s, not {retention}")
        self._home = home
        self._core = home.core
        self.name: bytes = home.claim(check_name(name))
        """The name; messages are keys below ``name + "/log/"``."""
        self._log = self.name + b"/log/"
        self._watch = watch
        self._retention = float(retention)
        # Replaced as a whole, on the runtime's loop: a lease, and until when new messages may go under it.
        self._bucket: tuple[int, float] = (0, 0.0)
        self._granting = asyncio.Lock()

    async def publish(
        self,
        value: str | bytes,
        *,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> int:
        """Publish a message, and return its revision: its place in the order.

        It is kept for at least ``retention`` seconds. ``timeout`` in seconds; None means the client's
        ``request_timeout``.
        Raises :class:`coord.PayloadTooLarge` above 64 KiB; :class:`coord.Unavailable` and :class:`coord.CoordTimeout`
        when nothing was published; :class:`coord.AmbiguousResult` when it stayed unknown, whose ``resolve()`` returns
        the revision, or None if there was none and never will be.
        """
        raw = encode(to_bytes(value, "value"), headers)
        limit = min(MAX_MESSAGE_BYTES, self._core.txn.max_value_bytes)
        if len(raw) > limit:
            what = f"a message on {self.name!r}"
            raise PayloadTooLarge(what, size_bytes=len(raw), limit_bytes=limit)
        allowed = self._core.caller.request_timeout if timeout is None else timeout
        clock = self._home.env.clock
        deadline = clock.mono() + allowed
        key = self._log + format(self._home.env.rand.bits(64), "016x").encode()
        for _ in range(_ATTEMPTS):
            left = deadline - clock.mono()
            if left <= 0:
                break
            lease = await self._lease(left)
            try:
                write = op.put(key, raw, lease=lease)
                left = max(0.0, deadline - clock.mono())
                marked = await self._core.markers.run((), (write,), timeout=left)
            except LeaseNotFound:
                # Refused, so nothing was written. Somebody has revoked it, or this process was asleep.
                if self._bucket[0] == lease:
                    self._bucket = (0, 0.0)
                continue
            return marked.revision
        raise CoordTimeout("publishing", allowed, explain="the leases of messages keep ending")

    async def _lease(self, timeout: float) -> int:
        lease, until = self._bucket
        if lease and self._home.env.clock.mono() < until:
            return lease
        return await self._home.run(self._grant(timeout))

    async def _grant(self, timeout: float) -> int:
        """Begin a new bucket, unless somebody has just done so. On the runtime's loop."""
        clock = self._home.env.clock
        deadline = clock.mono() + timeout
        try:
            async with asyncio.timeout(timeout):
                await self._granting.acquire()
        except TimeoutError:
            raise CoordTimeout("publishing", timeout) from None
        try:
            lease, until = self._bucket
            sent = clock.mono()
            if not lease or sent >= until:
                ttl = int(self._retention * 5 / 4) + _SENDING_S
                left = max(0.0, deadline - sent)
                granted = await self._core.leases.grant(ttl, timeout=left)
                lease = granted.lease_id
                self._bucket = (lease, sent + self._retention / _PARTS)
            return lease
        finally:
            self._granting.release()

    def subscribe(
        self,
        *,
        from_: From = "latest",
        durable: str | None = None,
        save_every: int = 100,
        save_within: float = 1.0,
    ) -> Subscription:
        """Return a subscription, to be opened with ``async with``; see :class:`Subscription`.

        ``from_``: ``"latest"``, what comes from now on; ``"earliest"``, everything that is still there; or a
        revision, everything after it. ``durable`` is the name of a cursor, from which the next subscription of that
        name goes on; ``from_`` counts only where there is none. There is one consumer of a cursor at a time.
        """
        if isinstance(from_, int) and from_ < 0:
            raise InvalidArgument(f"from_ must be a revision, 0 or more, not {from_}")
        if not isinstance(from_, int) and from_ not in {"latest", "earliest"}:
            raise InvalidArgument(f"from_ is 'latest', 'earliest' or a revision, not {from_!r}")
        if durable is not None and (not durable or "/" in durable or "\0" in durable):
            raise InvalidArgument(f"{durable!r} is no name for a subscriber: no '/', not empty")
        if save_every < 1 or not save_within > 0:
            raise InvalidArgument("save_every and save_within must be more than 0")
        cursor = None
        if durable is not None:
            cursor = Cursor(self._home, self.name, durable, retention=self._retention)
        return Subscription(
            self._home,
            self._log,
            lambda start: self._watch(self._log, start),
            from_=from_,
            retention=self._retention,
            cursor=cursor,
            save_every=save_every,
            save_within=save_within,
        )
