"""The twins of a partitioner and what it owns."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from coord.recipes import partitioner
from coord.runtime import start_task
from coord.sync._portal import Iteration, Portal, Twin
from coord.sync.grants import Grant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from types import TracebackType
    from typing import Self

    from coord.recipes.partitioner import Assignment
    from coord.recipes.partitioner.callbacks import OnOwnership

# Of the few worker threads that a client has; others need them, too.
_AT_A_TIME = 2


class Ownership(Grant[partitioner.Ownership]):
    """A partition, from its claim until it is given back or lost; see :class:`coord.Ownership`."""

    __slots__ = ()

    @property
    def partition(self) -> str:
        """The partition."""
        return self._async.partition


class Partitioner(Twin[partitioner.Partitioner]):
    """Divides partitions among all who run one of the same name; see :class:`coord.Partitioner`.

    Made by ``client.partitioner(name, partitions)``.
    """

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

    @property
    def partitions(self) -> frozenset[str]:
        """The partitions, as this object was told last."""
        return self._async.partitions

    @property
    def id(self) -> str | None:
        """The id of this member, None while it does not run."""
        return self._async.id

    def run(
        self,
        on_assign: Callable[[Ownership], object] | None = None,
        on_revoke: Callable[[Ownership], object] | None = None,
        *,
        timeout: float | None = None,
    ) -> Self:
        """Take part: ``with partitioner.run(on_assign, on_revoke):``, or :meth:`stop` yourself.

        As :meth:`coord.Partitioner.run`, with two differences: the functions run on the client's worker threads, at
        most two at a time; and a thread cannot be cancelled, so they have to return soon. For work that goes on, let
        ``on_assign`` start a thread of your own that looks at ``ownership.lost``, and ``on_revoke`` end it.
        """
        slots = asyncio.Semaphore(_AT_A_TIME)
        opening = self._async.run(
            _on_worker(self._portal, slots, on_assign),
            _on_worker(self._portal, slots, on_revoke),
            timeout=timeout,
        )
        self._portal.obtain(opening.open, self._discard)
        return self

    def _discard(self, made: partitioner.Partitioner) -> None:
        self._portal.in_background(made.stop(), name="partitioner-discard")

    def __enter__(self) -> Self:
        """Stop at the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave, drain and give back everything."""
        self.stop()

    def stop(self) -> None:
        """Leave: drain and give back everything, and wait until the functions have returned."""
        self._portal.call(self._async.stop())

    def set_partitions(self, partitions: int | Iterable[str]) -> None:
        """Replace the set of partitions, here: every member must be told the same."""
        self._portal.call(self._async.set_partitions(partitions))

    def owned(self) -> dict[str, Ownership]:
        """Return what is ours right now, by partition, also what is being drained."""
        return self._twins(self._async.owned())

    def _twins(self, owned: dict[str, partitioner.Ownership]) -> dict[str, Ownership]:
        return {p: Ownership(self._portal, own) for p, own in owned.items()}

    def watch(self) -> Iteration[dict[str, Ownership]]:
        """Return an iterator over what is ours, now and at each change. Close it, or use it in a ``with``."""

        async def twins() -> AsyncIterator[dict[str, Ownership]]:
            async for owned in self._async.watch():
                yield self._twins(owned)

        return Iteration(self._portal, twins())

    def assignment(self, *, timeout: float | None = None) -> Assignment:
        """Read who has what, and who should, as of now. Needs no :meth:`run`."""
        return self._portal.call(self._async.assignment(timeout=timeout))


def _on_worker(
    portal: Portal, slots: asyncio.Semaphore, fn: Callable[[Ownership], object] | None
) -> OnOwnership | None:
    """Return what calls ``fn`` on a worker thread, and returns when it really has, however often it is cancelled."""
    if fn is None:
        return None

    async def call(own: partitioner.Ownership) -> None:
        async with slots:
            work = start_task(portal.runtime.env.offload.run(fn, Ownership(portal, own)))
            cancelled: asyncio.CancelledError | None = None
            while not work.done():
                try:
                    await asyncio.wait({work})
                except asyncio.CancelledError as error:
                    cancelled = error
            if cancelled is not None:
                raise cancelled from work.exception()
            work.result()

    return call
