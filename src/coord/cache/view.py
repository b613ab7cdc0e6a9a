"""A cache as applications hold it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self, TypeVar

from typing_extensions import override

from coord.cache.changes import Changes
from coord.cache.decoding import Decoding
from coord.cache.mirror import Limits, Mirror, Mirrors, Seat
from coord.cache.snapshot import CacheSnapshot, Reads
from coord.errors import (
    CacheTimeout,
    ClientClosed,
    CoordError,
    CoordTimeout,
    InvalidArgument,
    Unavailable,
)
from coord.store.kv import range_request
from coord.store.paging import reread

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from coord.cache.ledger import CacheBatch, Ledger
    from coord.codec.protocol import Codec
    from coord.codec.values import Entry

T = TypeVar("T")
R = TypeVar("R")


class _Place:
    """A cache's part on the runtime's loop: its seat at a mirror, and its decoder. Knows nothing of the cache."""

    def __init__(
        self, mirrors: Mirrors, mirror: Mirror, seat: Seat, codec: Codec[Any] | None
    ) -> None:
        self.mirror = mirror
        self.seat = seat
        self.ledger: Ledger[Any] = mirror.ledger
        self._task: asyncio.Task[None] | None = None
        if codec is not None:
            core = mirrors.core
            decoding = Decoding(mirror.ledger, codec, core.env.offload)
            self.ledger = decoding.ledger
            self._task = core.supervisor.spawn(decoding.run(), name=f"decoder of {mirror}")

    async def ready(self) -> None:
        """Wait until it is complete."""
        while not self.ledger.is_ready:
            await self._news()
        self.check()

    async def reached(self, revision: int) -> None:
        """Wait until it is right at ``revision``."""
        while self.ledger.current.as_of < revision:
            await self._news()
        self.check()

    async def after(
        self, base: CacheSnapshot[Any]
    ) -> tuple[tuple[CacheBatch[Any], ...], CacheSnapshot[Any]]:
        """Wait for something newer than ``base``."""
        while self.ledger.current is base:
            await self._news()
        return self.ledger.since(base), self.ledger.current

    async def _news(self) -> None:
        self.check()
        await self.ledger.news()

    def check(self) -> None:
        """Raise what it has ended with. From any thread."""
        error = self.seat.error or self.ledger.error
        if error is not None:
            raise error

    def leave(self) -> None:
        """Give everything back. Safe to call twice."""
        if self.seat.error is None:
            self.seat.error = ClientClosed("the cache")
        if self._task is not None:
            self._task.cancel()
        self.mirror.remove(self.seat)
        self.ledger.wake()


class Cache(Reads[T]):
    """A range of the store as a dictionary that keeps itself up to date. Made by ``client.cache()``.

    ``async with`` fills it; then every read is local, from any thread and loop, without waiting and without a lock.
    What it shows is the store as of :attr:`revision`, all changes of one revision together, and never goes back.
    While the store cannot be reached it keeps what it has, and :attr:`stale_for` says for how long that may be old.

    Reading raises :class:`coord.CacheOverflow` after the range has become too large, :class:`coord.ClientClosed`,
    :class:`coord.PermissionDenied` when the rights were taken away.
    Caches of one client on one range share one copy and one watch.
    """

    __slots__ = (
        "__weakref__",
        "_codec",
        "_end",
        "_limits",
        "_mirrors",
        "_place",
        "_start",
        "_timeout",
    )

    def __init__(
        self,
        mirrors: Mirrors,
        start: bytes,
        end: bytes,
        *,
        codec: Codec[T] | None,
        limits: Limits,
        timeout: float | None,
    ) -> None:
        self._mirrors = mirrors
        self._start = start
        self._end = end
        self._codec = codec
        self._limits = limits
        self._timeout = timeout
        self._place: _Place | None = None

    @override
    def __repr__(self) -> str:
        """Show the range and its state."""
        place, state = self._place, "closed"
        if place is not None:
            now = place.ledger.current
            state = f"{len(now)} keys at revision {now.revision}"
        return f"<coord.{type(self).__name__} of [{self._start!r}, {self._end!r}): {state}>"

    async def __aenter__(self) -> Self:
        """As :meth:`open`, with the timeout that the cache was made with."""
        await self.open(timeout=self._timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the cache."""
        self.close()

    async def open(self, *, timeout: float | None = None) -> None:
        """Fill the cache. It is complete when this returns; a store that is down is waited for.

        Raises :class:`coord.CacheTimeout` after ``timeout`` seconds (None: never), :class:`coord.CacheOverflow`,
        :class:`coord.PermissionDenied`. After an error, a timeout or a cancellation nothing is left.
        """
        if self._place is not None:
            raise InvalidArgument("the cache is open")
        self._place = await self._run(self._take(timeout), discard=_Place.leave)

    async def _take(self, timeout: float | None) -> _Place:
        seat = Seat(self._limits)
        mirror = self._mirrors.take(self._start, self._end, seat)
        place = _Place(self._mirrors, mirror, seat, self._codec)
        try:
            await _within(place.ready, timeout, "opening the cache", "the store did not answer")
        except BaseException:
            place.leave()
            raise
        return place

    def close(self) -> None:
        """End the cache, without waiting. Reading raises :class:`coord.ClientClosed` then. Safe to call twice."""
        place, self._place = self._place, None
        if place is not None:
            with contextlib.suppress(CoordError, RuntimeError):  # everything has ended already
                self._mirrors.core.runtime.post(place.leave)

    def __del__(self) -> None:
        """Give back what a cache without ``async with`` holds."""
        if getattr(self, "_place", None) is not None:
            self.close()

    @override
    def snapshot(self) -> CacheSnapshot[T]:
        """Return what there is now, as one value that never changes. Costs nothing."""
        place = self._opened()
        place.check()
        return place.ledger.current

    def _opened(self) -> _Place:
        self._mirrors.core.runtime.check_process()
        place = self._place
        if place is None:
            raise ClientClosed("the cache")
        return place

    @property
    def stale_for(self) -> float:
        """Seconds for which changes may be missing: 0 while the store watches, else since it was last heard.

        A connection that dies without a word is noticed after some 15 seconds; the figure then jumps to the truth.
        """
        return self._opened().mirror.stale_for()

    async def sync(self, *, timeout: float | None = None) -> int:
        """Wait until the cache shows everything that was written before this call, by anybody; return the revision.

        Reads after it are linearizable. Costs a small read, and a question to the server when nothing changes.
        Raises :class:`coord.CacheTimeout` after ``timeout`` seconds; None waits for as long as it takes.
        """
        place = self._opened()
        return await self._run(
            _within(
                lambda: self._sync(place), timeout, "syncing the cache", "it is behind the store"
            )
        )

    async def _sync(self, place: _Place) -> int:
        core = self._mirrors.core
        backoff = reread(core.env.rand)
        while True:
            place.check()
            try:
                now = await core.kv.range(range_request(self._start, b"", keys_only=True))
            except (Unavailable, CoordTimeout):
                await backoff.pause()
            else:
                await self._reach(place, now.revision)
                return now.revision

    async def wait_revision(self, revision: int, *, timeout: float | None = None) -> None:
        """Wait until the cache shows everything up to ``revision``, for example that of a put: read your writes.

        Raises :class:`coord.CacheTimeout` after ``timeout`` seconds; None waits for as long as it takes.
        """
        place = self._opened()
        place.check()
        if place.ledger.current.as_of >= revision:
            return
        explain = f"it is behind revision {revision}"
        await self._run(
            _within(lambda: self._reach(place, revision), timeout, "the cache", explain)
        )

    async def _reach(self, place: _Place, revision: int) -> None:
        if place.ledger.current.as_of < revision:
            await place.mirror.reach(revision)
            await place.reached(revision)
        place.check()

    def changes(self) -> Changes[T]:
        """Return an iterator over batches of what happens from now on, whatever is read first.

        Together with a snapshot: take the iterator, then the snapshot, and leave out batches up to its revision.
        """
        place = self._opened()
        place.check()

        async def fetch(
            base: CacheSnapshot[T],
        ) -> tuple[tuple[CacheBatch[T], ...], CacheSnapshot[T]]:
            return await self._run(place.after(base))

        return Changes(place.ledger.current, fetch)

    async def _run(self, coro: Coroutine[Any, Any, R], *, discard: Any = None) -> R:  # noqa: ANN401
        return await self._mirrors.core.runtime.run(coro, discard=discard)


class NodeCache(Cache[T]):
    """A cache of a single key. Made by ``client.cache(key=...)``."""

    __slots__ = ()

    @property
    def pair(self) -> Entry[T] | None:
        """The pair with its revisions, None if the key does not exist."""
        return self.entry(self._start)

    @property
    def value(self) -> T | None:
        """The value, None if the key does not exist."""
        return self.get(self._start)

    @property
    def exists(self) -> bool:
        """Whether the key exists, with a value that can be read."""
        return self.pair is not None


async def _within(
    make: Callable[[], Coroutine[Any, Any, R]], timeout: float | None, what: str, explain: str
) -> R:
    """Run ``make()``, which nobody makes if this never begins. Raises :class:`CacheTimeout` after ``timeout`` seconds."""
    scope = asyncio.timeout(timeout)
    try:
        async with scope:
            return await make()
    except TimeoutError:
        if not scope.expired():
            raise
        raise CacheTimeout(what, timeout, explain=explain) from None
