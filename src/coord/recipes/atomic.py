"""A cell that is changed only by those who know what is in it (spec recipes 12).

The mod revision of the key stands for "what is in it": it never comes back, so unlike a comparison of values this one
cannot be fooled by a value that went away and came again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from coord.codec.values import decoded
from coord.entry import check_name
from coord.errors import CoordError, CoordTimeout, InvalidArgument
from coord.runtime import Backoff
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from coord.cache import NodeCache
    from coord.codec.protocol import Codec
    from coord.coordination import Coordination
    from coord.store.values import KeyValue

T = TypeVar("T")

_PAUSE_MIN_S, _PAUSE_MAX_S = 0.001, 1.0


class Conflict(CoordError):
    """The key is not as it was expected to be; nothing was written.

    ``expected`` and ``actual`` are mod revisions, 0 for a missing key.
    """

    def __init__(self, key: bytes, *, expected: int, actual: int) -> None:
        self.key = key
        self.expected = expected
        self.actual = actual
        super().__init__(f"{key!r} is at revision {actual}, not {expected}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Versioned(Generic[T]):
    """A value, None for a missing key, and the revision that wrote it, 0 for a missing key."""

    value: T | None
    revision: int


class AtomicUpdate(Generic[T]):
    """One update under way: read, then write until nobody else came first. For the cell and its twin."""

    def __init__(self, cell: AtomicValue[T], timeout: float | None, lease: int | None) -> None:
        self._cell = cell
        self._lease = lease
        core = cell.home.core
        self._clock = core.env.clock
        self._limit = core.caller.request_timeout if timeout is None else timeout
        self._deadline = self._clock.mono() + self._limit
        self._backoff: Backoff | None = None
        self._attempts = 0
        self._revision = 0

    def _left(self) -> float:
        left = self._deadline - self._clock.mono()
        if left <= 0:
            explain = f"others came first {self._attempts} times"
            raise CoordTimeout("the update", self._limit, explain=explain)
        return left

    async def read(self) -> T | None:
        """Return the value to start from."""
        seen = await self._cell.get(timeout=self._left())
        self._revision = seen.revision
        return seen.value

    async def write(self, value: T) -> tuple[Versioned[T] | None, T | None]:
        """Write if nothing has changed; return what is there then, or None and the value to start from again."""
        begun = self._clock.mono()
        done, found = await self._cell.exchange(
            self._revision, value, lease=self._lease, timeout=self._left()
        )
        if done is not None:
            return done, None
        self._attempts += 1
        if self._attempts > 1:
            # What was found is the freshest there is: the first time it is used at once, but never after a pause.
            if self._backoff is None:
                took = max(_PAUSE_MIN_S, self._clock.mono() - begun)
                self._backoff = Backoff(self._cell.home.env.rand, 8 * took, _PAUSE_MAX_S, spread=1)
            await self._backoff.pause(self._left())
            return None, await self.read()
        seen = self._cell.versioned(found)
        self._revision = seen.revision
        return None, seen.value


class AtomicValue(Generic[T]):
    """A cell for compare-and-set. Made by ``client.atomic(name)``; may be shared between tasks, loops and threads.

    Everything is linearizable, and each write takes effect exactly once or not at all.
    Reading raises :class:`coord.DecodeError` when the key holds something else than the codec's values.
    """

    def __init__(
        self,
        home: Coordination,
        name: str | bytes,
        codec: Codec[T],
        view: Callable[[bytes], NodeCache[T]],
    ) -> None:
        self.home: Coordination = home
        self.name: bytes = home.claim(check_name(name))
        """The name, which is the key."""
        self._codec = codec
        self._view = view

    async def get(self, *, timeout: float | None = None) -> Versioned[T]:
        """Return the value and its revision."""
        return self.versioned(await self.home.core.kv.get(self.name, timeout=timeout))

    async def compare_and_set(
        self, revision: int, value: T, *, lease: int | None = None, timeout: float | None = None
    ) -> Versioned[T]:
        """Write ``value`` if the key is still at ``revision`` (0: does not exist); return it with its new revision.

        ``lease``: the id of the lease to attach the key to, 0 for none; None leaves it at the one that it has.
        Raises :class:`Conflict` when somebody else came first; :class:`coord.Unavailable` and
        :class:`coord.CoordTimeout` when nothing was written; :class:`coord.AmbiguousResult` when it stayed unknown,
        whose ``resolve()`` returns the revision, or None if nothing was written and never will be.
        """
        done, found = await self.exchange(revision, value, lease=lease, timeout=timeout)
        if done is None:
            actual = 0 if found is None else found.mod_revision
            raise Conflict(self.name, expected=revision, actual=actual)
        return done

    async def exchange(
        self, revision: int, value: T, *, lease: int | None, timeout: float | None
    ) -> tuple[Versioned[T] | None, KeyValue | None]:
        """As :meth:`compare_and_set`; return None and what is there when somebody else came first."""
        if revision < 0:
            raise InvalidArgument(f"revision must be 0 or more, not {revision}")
        core = self.home.core
        raw = to_value(
            self._codec.encode(value), f"the cell {self.name!r}", core.txn.max_value_bytes
        )
        keep = lease is None and revision > 0
        marked = await core.markers.run(
            (compare.mod_revision(self.name) == revision,),
            (op.put(self.name, raw, lease=lease or 0, ignore_lease=keep),),
            (op.get(self.name),),
            timeout=timeout,
        )
        if marked.applied:
            return Versioned(value=value, revision=marked.revision), None
        items = () if marked.result is None else marked.result.range(0).items
        return None, items[0] if items else None

    async def update(
        self,
        fn: Callable[[T | None], T],
        *,
        lease: int | None = None,
        timeout: float | None = None,
    ) -> Versioned[T]:
        """Replace the value by ``fn(value)``, or create it from ``fn(None)``; again, when others came in between.

        ``fn`` may be called several times. ``timeout`` in seconds is for all attempts together.
        Errors as of :meth:`compare_and_set`, without :class:`Conflict`.
        """
        run = self.updating(lease=lease, timeout=timeout)
        value = await run.read()
        while True:
            done, value = await run.write(fn(value))
            if done is not None:
                return done

    def updating(self, *, lease: int | None, timeout: float | None) -> AtomicUpdate[T]:
        """Begin an update, step by step."""
        return AtomicUpdate(self, timeout, lease)

    async def watch(self) -> AsyncGenerator[Versioned[T]]:
        """Yield the value now, and again after each change; what was replaced before it was read may be left out.

        Goes on through lost connections and never goes back. A value that cannot be read is left out.
        Waits for a store that is down.
        """
        async with self._view(self.name) as view:
            changes = view.changes()
            pair = view.pair
            seen = view.revision
            revision = 0 if pair is None else pair.mod_revision
            yield Versioned(value=None if pair is None else pair.value, revision=revision)
            async for batch in changes:
                if batch.revision <= seen:
                    continue
                for change in batch.changes:
                    new = change.new
                    yield Versioned(
                        value=None if new is None else new.value,
                        revision=0 if new is None else new.mod_revision,
                    )

    def versioned(self, found: KeyValue | None) -> Versioned[T]:
        """Decode what the store holds."""
        if found is None:
            return Versioned(value=None, revision=0)
        return Versioned(value=decoded(self._codec, found).value, revision=found.mod_revision)
