"""The waiter engine: the one place in the SDK that waits for the store to change (spec recipes C6).

A recipe hands in a *condition*: one RPC that reads the state at a revision R and says either that the wait is over, or
which changes of which keys could end it.
The engine watches exactly those from R + 1, wakes on the first of {event, own key gone, session expired, client
closed}, and asks again.
Where the change itself says all there is to know, the condition names it, and nothing is asked again.
It never watches "from now", so nothing can slip between the read and the watch; a watch that cannot be resumed
(compaction) only means asking again; and every ``recheck`` seconds it asks without any event.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from coord.errors import Compacted, CoordTimeout, RequestRefused, Unavailable
from coord.runtime import start_task
from coord.store.keys import prefix_end
from coord.store.values import EventType
from coord.store.watch import WatchSpec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.coordination import Coordination
    from coord.session import Session
    from coord.signals import OneShot
    from coord.store.values import WatchEvent
    from coord.store.watch import WatchFeed

T = TypeVar("T")

RECHECK_S = 30.0
RETRY_LOW_S, RETRY_HIGH_S = 0.05, 0.5
"""Between two attempts of what is repeated until the store answers, in seconds."""


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """The wait is over, with this result."""

    result: T


@dataclass(frozen=True, slots=True)
class Sight:
    """What to look out for: changes of one key, or of all below a prefix.

    ``where``: only those for which this holds; the others wake nobody.
    """

    key: bytes
    prefix: bool = False
    on: Literal["delete", "put", "any"] = "delete"
    where: Callable[[WatchEvent], bool] | None = None

    def spec(self, revision: int) -> WatchSpec:
        """Return the watch for it, with the narrowest filter."""
        return WatchSpec(
            key=self.key,
            end=prefix_end(self.key) if self.prefix else b"",
            start_revision=revision,
            no_put=self.on == "delete",
            no_delete=self.on == "put",
        )

    def wakes(self, event: WatchEvent) -> bool:
        """Whether this event is one of those."""
        if self.on != "any" and (event.type is EventType.DELETE) != (self.on == "delete"):
            return False
        return self.where is None or self.where(event)


@dataclass(frozen=True, slots=True)
class Watch:
    """Not yet: ask again when something of this happens after ``revision``; a key alone means its deletion.

    ``within``: ask again after so many seconds at the latest, for a condition that time can fulfil.
    ``ended``: what the first such change means by itself; :class:`Done` ends the wait without a further request, None asks
    again. What no change tells (a compaction, ``within``) is asked for in any case.
    """

    sights: tuple[bytes | Sight, ...]
    revision: int
    within: float | None = None
    ended: Callable[[WatchEvent], Done[Any] | None] | None = None


async def wait_until(
    home: Coordination,
    condition: Callable[[], Awaitable[Done[T] | Watch]],
    *,
    session: Session | None,
    first: Watch | None = None,
    recheck: float = RECHECK_S,
) -> T:
    """Wait until ``condition`` is done and return its result. On the runtime's loop.

    ``first``: what an earlier request already told to watch, which saves the first evaluation.
    Raises :class:`SessionExpired` as soon as the session ends (None: the wait needs none), and what ``condition``
    raises, except :class:`Unavailable` and :class:`CoordTimeout`, after which it asks again: how long a request may
    take says nothing about the wait.
    Cancelling leaves no watch behind.
    """
    verdict: Done[T] | Watch | None = first
    while True:
        if session is not None:
            session.check()
        if verdict is None:
            try:
                verdict = await while_valid(session, condition())
            except (Unavailable, CoordTimeout):
                await while_valid(session, home.pause(RETRY_LOW_S, RETRY_HIGH_S))
                continue
        if isinstance(verdict, Done):
            # The answer may have been long under way: it counts only while the session surely lives.
            if session is not None:
                session.check()
            return verdict.result
        pause = home.env.rand.uniform(recheck * 0.9, recheck * 1.1)
        if verdict.within is not None:
            pause = min(pause, verdict.within)
        verdict = await while_valid(session, _changed(home, verdict, within=pause))


def while_valid(session: Session | None, step: Awaitable[T]) -> Awaitable[T]:
    """Await ``step``, but no longer than the session lives, if there is one. Raises :class:`SessionExpired`."""
    return step if session is None else unless(session.expired, step, session.check)


async def unless(signal: OneShot, step: Awaitable[T], tell: Callable[[], object]) -> T:
    """Await ``step``, but interrupt it when ``signal`` fires, and call ``tell`` then, which should raise.

    Inside a task. A cancellation by the caller wins.
    """
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("the waiter engine runs inside a task")
    fired = left = False

    def interrupt() -> None:
        nonlocal fired
        if left or fired:
            return
        if asyncio.current_task() is task:
            # The step itself has made it fire, or it had fired before. A task that runs would meet a cancellation of now
            # at its next await, long after this if the step ends first: before Python 3.13 nothing takes that back.
            asyncio.get_running_loop().call_soon(interrupt)
            return
        fired = True
        task.cancel()

    before = task.cancelling()
    unregister = signal.watch(interrupt)
    try:
        return await step
    except asyncio.CancelledError:
        if fired:
            fired = False
            if task.uncancel() <= before:
                tell()
        raise
    finally:
        left = True
        unregister()
        if fired:  # the step ended in another way, and our interruption with it
            task.uncancel()


async def _changed(home: Coordination, what: Watch, *, within: float) -> Done[Any] | None:
    """Return when one of the changes happens after the revision, when that cannot be known, or after ``within``."""
    sights = [sight if isinstance(sight, Sight) else Sight(sight) for sight in what.sights]
    feeds = [(sight, home.watches.open(sight.spec(what.revision + 1))) for sight in sights]
    try:
        async with asyncio.timeout(within):
            if len(feeds) == 1:
                event = await _first_change(*feeds[0])
            else:
                event = await _any(feeds)
    except TimeoutError:
        return None
    finally:
        for _, feed in feeds:
            feed.close()
    return None if event is None or what.ended is None else what.ended(event)


async def _any(feeds: list[tuple[Sight, WatchFeed]]) -> WatchEvent | None:
    """Wait for the first of several feeds."""
    # No TaskGroup: before Python 3.13 it loses the caller's cancellation when a child ends it at the same time.
    tasks = [start_task(_first_change(sight, feed), name="watch-any") for sight, feed in feeds]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        errors = [
            e for t in tasks if t.done() and not t.cancelled() and (e := t.exception()) is not None
        ]
        for task in tasks:
            task.cancel()
    if errors:
        raise errors[0]
    # Of two at the same time the earlier one tells; a feed that cannot tell is asked about.
    events = [task.result() for task in done]
    return None if None in events else min(filter(None, events), key=_revision)


def _revision(event: WatchEvent) -> int:
    return event.revision


async def _first_change(sight: Sight, feed: WatchFeed) -> WatchEvent | None:
    """Return the first change that is looked out for; None if that cannot be known."""
    while True:
        try:
            batch = await feed.next()
        except Compacted:
            return None  # history is gone: only a fresh look can tell
        except RequestRefused:
            return None
        for event in batch.events:
            if sight.wakes(event):
                return event
