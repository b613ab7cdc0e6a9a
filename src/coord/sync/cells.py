"""The twins of counters, allocators of ids and compare-and-set cells."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from coord.recipes import atomic, counter
from coord.sync._portal import Iteration, Twin

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.recipes.atomic import Versioned

T = TypeVar("T")


class Counter(Twin[counter.Counter]):
    """A shared number; see :class:`coord.Counter`. Made by ``client.counter(name)``; may be shared between threads."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, which is the key."""
        return self._async.name

    def add(self, n: int = 1, *, timeout: float | None = None) -> int:
        """Add ``n``, which may be negative, and return the sum that this addition made."""
        return self._portal.call(self._async.add(n, timeout=timeout))

    def value(self, *, timeout: float | None = None) -> int:
        """Return the number, ``initial`` if nobody has written one."""
        return self._portal.call(self._async.value(timeout=timeout))

    def reset(self, value: int = 0, *, timeout: float | None = None) -> None:
        """Set the number, whatever is there."""
        self._portal.call(self._async.reset(value, timeout=timeout))


class ShardedCounter(Twin[counter.ShardedCounter]):
    """A number in several keys, for many writers; see :class:`coord.ShardedCounter`."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name; the parts are the keys below ``name + "/"``."""
        return self._async.name

    def add(self, n: int = 1, *, timeout: float | None = None) -> None:
        """Add ``n`` to one of the parts."""
        self._portal.call(self._async.add(n, timeout=timeout))

    def value(self, *, timeout: float | None = None) -> int:
        """Return the sum of all parts as of one moment."""
        return self._portal.call(self._async.value(timeout=timeout))


class IdAllocator(Twin[counter.IdAllocator]):
    """Unique numbers that rise, taken from the store in blocks; see :class:`coord.IdAllocator`."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, which is the key; it holds the largest id that was handed to anybody."""
        return self._async.name

    def next(self, *, timeout: float | None = None) -> int:
        """Return an id that nobody else has or will have; the first one is 1."""
        return self._portal.call(self._async.next(timeout=timeout))


class AtomicValue(Twin[atomic.AtomicValue[T]]):
    """A cell for compare-and-set; see :class:`coord.AtomicValue`. Made by ``client.atomic(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, which is the key."""
        return self._async.name

    def get(self, *, timeout: float | None = None) -> Versioned[T]:
        """Return the value and its revision."""
        return self._portal.call(self._async.get(timeout=timeout))

    def compare_and_set(
        self, revision: int, value: T, *, lease: int | None = None, timeout: float | None = None
    ) -> Versioned[T]:
        """Write ``value`` if the key is still at ``revision`` (0: does not exist). Raises :class:`coord.Conflict`."""
        return self._portal.call(
            self._async.compare_and_set(revision, value, lease=lease, timeout=timeout)
        )

    def update(
        self,
        fn: Callable[[T | None], T],
        *,
        lease: int | None = None,
        timeout: float | None = None,
    ) -> Versioned[T]:
        """Replace the value by ``fn(value)``; see :meth:`coord.AtomicValue.update`. ``fn`` runs on this thread."""
        run = self._async.updating(lease=lease, timeout=timeout)
        value = self._portal.call(run.read())
        while True:
            done, value = self._portal.call(run.write(fn(value)))
            if done is not None:
                return done

    def watch(self) -> Iteration[Versioned[T]]:
        """Iterate over the value now, and again after each change. Close it, or use it in a ``with``."""
        return Iteration(self._portal, self._async.watch())
