"""The twin of the part of a client that makes queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from coord import client
from coord.sync._portal import Twin, behind
from coord.sync.queues import DelayQueue, PriorityQueue, Queue
from coord.sync.work_queue import WorkQueue

if TYPE_CHECKING:
    from coord.recipes.work_queue import Backoff
    from coord.sync.session import Session


class QueueCalls(Twin[client.Client]):
    """Queues of a :class:`coord.sync.Client`."""

    __slots__ = ()

    def queue(self, name: str | bytes) -> Queue:
        """Return the queue called ``name``, first in, first out; see :class:`Queue`."""
        return Queue(self._portal, self._async.queue(name))

    def priority_queue(self, name: str | bytes, *, strict: bool = True) -> PriorityQueue:
        """Return the queue called ``name`` whose most urgent item is taken first; see :class:`PriorityQueue`."""
        return PriorityQueue(self._portal, self._async.priority_queue(name, strict=strict))

    def delay_queue(self, name: str | bytes) -> DelayQueue:
        """Return the queue called ``name`` whose items have a time each; see :class:`DelayQueue`."""
        return DelayQueue(self._portal, self._async.delay_queue(name))

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
        """Return the queue of jobs called ``name``; see :class:`WorkQueue` and :meth:`coord.Client.work_queue`."""
        made = self._async.work_queue(
            name,
            max_attempts=max_attempts,
            claim=claim,
            visibility=visibility,
            max_processing=max_processing,
            backoff=backoff,
            dedup_window=dedup_window,
            session=None if session is None else behind(session),
        )
        return WorkQueue(self._portal, made)
