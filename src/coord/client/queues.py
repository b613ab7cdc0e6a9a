"""The part of a client that makes queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from coord.recipes.queues import DelayQueue, PriorityQueue, Queue
from coord.recipes.work_queue import WorkQueue

if TYPE_CHECKING:
    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.work_queue import Backoff
    from coord.session import Session


class QueueCalls:
    """Queues of a :class:`coord.Client`."""

    _home: Coordination
    _mirrors: Mirrors

    def queue(self, name: str | bytes) -> Queue:
        """Return the queue called ``name``, first in, first out; see :class:`Queue`."""
        return Queue(self._home, self._mirrors, name)

    def priority_queue(self, name: str | bytes, *, strict: bool = True) -> PriorityQueue:
        """Return the queue called ``name`` whose most urgent item is taken first; see :class:`PriorityQueue`."""
        return PriorityQueue(self._home, self._mirrors, name, strict=strict)

    def delay_queue(self, name: str | bytes) -> DelayQueue:
        """Return the queue called ``name`` whose items have a time each; see :class:`DelayQueue`."""
        return DelayQueue(self._home, self._mirrors, name)

    def work_queue(
        self,
        name: str | bytes,
        *,
        max_attempts: int = 5,
        claim: Literal["session", "visibility"] = "session",
        visibility: int = 30,
        max_processing: float | None = None,
        backoff: Backoff | None = None,
        dedup_window: float = 60,
        session: Session | None = None,
    ) -> WorkQueue:
        """Return the queue of jobs called ``name``; see :class:`WorkQueue`.

        An item that has failed ``max_attempts`` times becomes a dead letter. ``backoff`` says how long it waits after
        each failure, None: :class:`Backoff()`. A ``dedup_id`` is remembered for at least ``dedup_window`` seconds after
        its item was done.
        Claims last as long as the session, None: the client's default one. With ``claim="visibility"`` each has a lease
        of its own, of ``visibility`` seconds, which only ``item.extend()`` makes longer: for workers that may hang.
        Work that takes longer than ``max_processing`` seconds is ended here, as after a loss, and its item given back.
        All consumers of a queue must agree on all of these but the backoff, the session and ``max_processing``.
        """
        return WorkQueue(
            self._home,
            self._mirrors,
            name,
            max_attempts=max_attempts,
            claim=claim,
            visibility=visibility,
            max_processing=max_processing,
            backoff=backoff,
            dedup_window=dedup_window,
            session=session,
        )
