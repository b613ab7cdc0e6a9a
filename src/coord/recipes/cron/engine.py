"""One scheduler at work: it follows the jobs, and sees to those of the shares that it owns. On the runtime's loop."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import zlib
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING

from coord._telemetry import CRON, observed_wait
from coord.cache import Cache
from coord.cache.mirror import Limits
from coord.errors import (
    AmbiguousResult,
    ClientClosed,
    CoordError,
    CoordTimeout,
    SessionError,
    Unavailable,
)
from coord.names import as_text
from coord.notices import CoordWarning, notice
from coord.recipes.cron.book import Book, Page
from coord.recipes.cron.handling import Performance
from coord.recipes.cron.layout import JobDoc, State, is_running
from coord.recipes.cron.rules import Lose, Skip, Start, Wait, decide
from coord.recipes.cron.running import Run
from coord.recipes.cron.schedule import parse_schedule
from coord.store import operations as op
from coord.store.keys import prefix_range
from coord.waiter import RETRY_HIGH_S, RETRY_LOW_S, Done, Sight, Watch, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

    from coord.cache import Changes, Mirrors
    from coord.coordination import Coordination
    from coord.grants import Grant
    from coord.recipes.cron.handling import Handler
    from coord.recipes.cron.layout import Layout
    from coord.recipes.cron.owners import Owner
    from coord.recipes.cron.schedule import Schedule
    from coord.recipes.cron.tick import Tick

_LIMITS = Limits(max_keys=1_000_000, max_bytes=1 << 30)
# A wall clock may be set while somebody waits for it.
_LONGEST_WAIT_S = 30.0
_READ_AT_ONCE = 100
_CLEAN_UP_S = 5.0


class CronWarning(CoordWarning):
    """A scheduler sees to a job that it cannot run: it has no handler, or cannot read what the job says."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Work:
    """A job as this scheduler sees it."""

    page: Page
    schedule: Schedule
    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    """Ticks that run here, until their handlers have ended."""
    elsewhere: dict[str, asyncio.Task[object] | None] = field(
        default_factory=dict[str, "asyncio.Task[object] | None"]
    )
    """Ticks that run elsewhere, as far as we know, and what waits for their end."""
    acting: asyncio.Task[object] | None = None
    is_dirty: bool = False
    is_gone: bool = False
    """Removed; what runs of it goes on."""
    due: float | None = None
    line: asyncio.Lock = field(default_factory=asyncio.Lock)


class Engine:
    """What ``cron.run()`` does."""

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: bytes,
        layout: Layout,
        owner: Owner,
        *,
        handler_of: Callable[[str], Handler | None],
        loop: asyncio.AbstractEventLoop,
        history_s: float,
    ) -> None:
        self._home = home
        self._name = name
        self._text = as_text(name)
        self._layout = layout
        self._owner = owner
        self._handler_of = handler_of
        self._loop = loop
        self._book = Book(home, name, layout, history_s=history_s)
        start, end = prefix_range(layout.jobs)
        self._view: Cache[bytes] = Cache(
            mirrors, start, end, codec=None, limits=_LIMITS, timeout=None
        )
        self._works: dict[bytes, _Work] = {}
        self._grants: dict[int, Grant] = {}
        self._stopping = False
        self._heap: list[tuple[float, int, bytes]] = []
        self._numbers = count()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[object]] = []
        self._over: asyncio.Future[Exception] | None = None
        self._told: set[str] = set()
        self._forget: Callable[[], None] | None = None

    # -- begin and end ---------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the jobs and begin to work."""
        self._over = asyncio.get_running_loop().create_future()
        await self._view.open()
        changes = self._view.changes()
        for entry in self._view.snapshot().entries():
            self._learn(entry.key, entry.value, entry.mod_revision)
        self._forget = self._home.core.at_close(self._closing)
        self._begin(self._follow(changes), "cron-jobs")
        self._begin(self._tick(), "cron-clock")
        self._begin(self._owner.run(self), "cron-owner")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        async def watched() -> None:
            try:
                await work
            except Exception as error:  # noqa: BLE001 - whoever waits in run() must hear of it
                self.fail(error)

        task = self._home.background(watched(), name=name)
        if task is None:
            work.close()
            raise ClientClosed
        self._tasks.append(task)

    async def over(self) -> None:
        """Wait until it has failed, and raise that."""
        if self._over is not None:
            raise await asyncio.shield(self._over)

    def fail(self, error: Exception) -> None:
        """End with ``error``."""
        if self._over is not None and not self._over.done():
            self._over.set_result(error)

    async def _closing(self) -> None:
        self.fail(ClientClosed())
        await self.stop(0.0)

    async def stop(self, grace: float) -> None:
        """Begin nothing more, let what runs end within ``grace`` seconds, or give it back; then leave everything."""
        forget, self._forget = self._forget, None
        if forget is not None:
            forget()
        self._stopping = True
        try:
            await self._ended(grace, stop=False)
            await self._ended(_CLEAN_UP_S, stop=True)
        finally:
            # What is being begun is abandoned, and the owner gives its shares back as it ends.
            acting = [work.acting for work in self._works.values() if work.acting is not None]
            tasks, self._tasks = [*acting, *self._tasks], []
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks)
            for work in self._works.values():
                for watcher in work.elsewhere.values():
                    if watcher is not None:
                        watcher.cancel()
            self._view.close()

    # -- shares: told by the owner -----------------------------------------------------------------------------------

    def gained(self, share: int, grant: Grant) -> None:
        """See to the jobs of a share from now on, under ``grant``."""
        self._grants[share] = grant
        self._home.background(self._take_over(share, grant), name="cron-gain")

    def dropped(self, share: int, grant: Grant) -> None:
        """Begin nothing more of a share that is lost."""
        if self._grants.get(share) is grant:
            del self._grants[share]

    async def leave(self, share: int, grant: Grant) -> None:
        """Begin nothing more of a share; return when nothing is being begun.

        What runs goes on here: its tick is its own, and who has the share next waits for its end.
        """
        self.dropped(share, grant)
        works = [work for work in self._works.values() if self._share(work.page.key) == share]
        acting = {work.acting for work in works if work.acting is not None}
        if acting:
            await asyncio.wait(acting)

    async def _ended(self, within: float, *, stop: bool) -> None:
        """Wait until nothing is under way, at most ``within`` seconds; with ``stop`` tell what runs to end."""
        deadline = self._home.env.clock.mono() + within
        while tasks := {t for work in self._works.values() for t in _under_way(work)}:
            if stop:
                for run in [run for work in self._works.values() for run in work.runs.values()]:
                    run.tick.stopping.set("stopped")
            left = deadline - self._home.env.clock.mono()
            if left <= 0:
                return
            await asyncio.wait(tasks, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    def _share(self, job: bytes) -> int:
        return zlib.crc32(job) % self._owner.shares

    def _may(self, work: _Work) -> Grant | None:
        """Return what makes us the one who sees to this job, if we are."""
        grant = self._grants.get(self._share(work.page.key))
        if grant is None or self._stopping or grant.valid_for() <= 0:
            return None
        return grant

    async def _take_over(self, share: int, grant: Grant) -> None:
        """Read the states of a share's jobs, many at a time, and see what is to be done."""
        works = [work for work in self._works.values() if self._share(work.page.key) == share]
        for work in works:
            work.page.forget()
        for begin in range(0, len(works), _READ_AT_ONCE):
            part = works[begin : begin + _READ_AT_ONCE]
            while grant.valid_for() > 0:
                try:
                    alive = await self._book.read([work.page for work in part])
                except (Unavailable, CoordTimeout):
                    await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)
                except CoordError as error:
                    self.fail(error)
                    return
                else:
                    for work in part:
                        self._note_alive(work, alive)
                    break
            for work in part:
                self._poke(work)

    # -- jobs --------------------------------------------------------------------------------------------------------

    async def _follow(self, changes: Changes[bytes]) -> None:
        async for batch in changes:
            for change in batch.changes:
                if change.new is None:
                    self._unlearn(change.key)
                else:
                    self._learn(change.key, change.new.value, change.new.mod_revision)

    def _learn(self, key: bytes, value: bytes, revision: int) -> None:
        job = key[len(self._layout.jobs) :]
        text = job.decode(errors="surrogateescape")
        doc = JobDoc.decode(text, value)
        if doc is None:
            self._unlearn(key)
            self._warn(text, f"job {text!r} cannot be read here, and does not run")
            return
        schedule = parse_schedule(doc.job.schedule, doc.job.tz)
        work = self._works.get(job)
        if work is None:
            page = Page(key=job, doc=doc, doc_revision=revision, state=State())
            work = self._works[job] = _Work(page=page, schedule=schedule)
        else:
            work.page.doc, work.page.doc_revision, work.schedule = doc, revision, schedule
            work.page.forget()  # it may have been removed and added again
            work.is_gone = False
        self._poke(work)

    def _unlearn(self, key: bytes) -> None:
        """Begin nothing more of a job that is gone; what runs of it goes on."""
        job = key[len(self._layout.jobs) :]
        work = self._works.get(job)
        if work is not None:
            work.is_gone = True
            work.page.forget()
            self._tidy(work)

    def _tidy(self, work: _Work) -> None:
        if work.is_gone and not work.runs and work.acting is None:
            self._works.pop(work.page.key, None)

    # -- the clock -----------------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        """Wake the jobs whose time has come."""
        while True:
            self._news.clear()
            now = self._home.env.clock.wall()
            while self._heap and self._heap[0][0] <= now:
                due, _, job = heapq.heappop(self._heap)
                work = self._works.get(job)
                if work is not None and work.due == due:
                    work.due = None
                    self._poke(work)
            pause = self._heap[0][0] - now if self._heap else _LONGEST_WAIT_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, _LONGEST_WAIT_S)):
                    await self._news.wait()

    def _sleep(self, work: _Work, until: float | None) -> None:
        work.due = until
        if until is not None:
            heapq.heappush(self._heap, (until, next(self._numbers), work.page.key))
            if self._heap[0][0] == until:
                self._news.set()

    # -- acting ----------------------------------------------------------------------------------------------------

    def _poke(self, work: _Work) -> None:
        """See what is to be done for a job; once more, if that goes on already."""
        if work.acting is not None:
            work.is_dirty = True
        elif self._may(work) is not None:
            work.acting = self._home.background(self._act(work), name="cron-act")

    async def _act(self, work: _Work) -> None:
        try:
            while True:
                work.is_dirty = False
                async with work.line:
                    again = await self._turn(work)
                if not again and not work.is_dirty:
                    return
        except Exception as error:  # noqa: BLE001 - as above: a job that is never looked at again would be silent
            self.fail(error)
        finally:
            work.acting = None
            self._tidy(work)

    async def _turn(self, work: _Work) -> bool:
        """Do one thing; say whether there may be more."""
        grant = self._may(work)
        if grant is None or work.is_gone:
            return False
        try:
            if not work.page.is_read:
                self._note_alive(work, await self._book.read([work.page]))
            return await self._do(work, grant)
        except (Unavailable, CoordTimeout, AmbiguousResult):
            work.page.forget()
            await self._home.pause(RETRY_LOW_S, RETRY_HIGH_S)
            return True
        except SessionError:
            work.page.forget()
            return False  # the share is lost; whoever has it next looks anew
        except CoordError as error:
            self.fail(error)
            return False

    async def _do(self, work: _Work, grant: Grant) -> bool:
        page = work.page
        now = self._home.env.clock.wall()
        alive = work.runs.keys() | work.elsewhere.keys()
        match decide(page.doc, work.schedule, page.state, alive, now):
            case Wait(until=until):
                self._sleep(work, until)
                return False
            case Skip() as skip:
                await self._book.skip(page, grant, skip)
            case Lose() as lose:
                await self._book.lose(page, grant, lose)
            case Start() as start:
                handler = self._handler_of(page.doc.job.name)
                if handler is None:
                    self._warn(
                        page.doc.job.name,
                        f"this scheduler has no handler for job {page.doc.job.name!r}, which it has to see to; all"
                        " schedulers need the handlers of all jobs",
                    )
                    self._sleep(work, now + _LONGEST_WAIT_S)
                    return False
                tick = await self._start(page, grant, start)
                if tick is not None:
                    self._perform(work, tick, handler)
        return True

    async def _start(self, page: Page, grant: Grant, step: Start) -> Tick | None:
        name = f"{self._text}/{page.doc.job.name}"
        return await observed_wait(
            CRON,
            CRON.wait,
            name,
            lambda: self._book.start(page, grant, step),
            clock=self._home.env.clock,
        )

    def _perform(self, work: _Work, tick: Tick, handler: Handler) -> None:
        handling = Performance(self._home.core, self._loop, handler)
        run = Run(self._home, self._book, work.page, tick, line=work.line, handling=handling)
        work.runs[run.ident] = run

        async def performed() -> None:
            try:
                await run.perform()
            except Exception as error:  # noqa: BLE001 - as above
                self.fail(error)
            finally:
                work.runs.pop(run.ident, None)
                self._tidy(work)
                self._poke(work)

        run.task = self._home.background(performed(), name="cron-run")
        if run.task is None:
            work.runs.pop(run.ident, None)

    def _warn(self, job: str, what: str) -> None:
        if job not in self._told:
            self._told.add(job)
            notice(CronWarning(f"cron {self._text!r}: {what}"))

    # -- ticks that run elsewhere --------------------------------------------------------------------------------------

    def _note_alive(self, work: _Work, alive: set[tuple[bytes, str]]) -> None:
        """Take note of the ticks that others run, and look out for their ends."""
        theirs = {tick for job, tick in alive if job == work.page.key} - work.runs.keys()
        for tick in theirs - work.elsewhere.keys():
            work.elsewhere[tick] = self._home.background(
                self._await_end(work, tick), name="cron-elsewhere"
            )

    async def _await_end(self, work: _Work, tick: str) -> None:
        key = self._layout.tick(work.page.key, tick)

        try:
            await wait_until(self._home, lambda: self._look(key), session=None)
        except CoordError as error:
            self.fail(error)
        finally:
            work.elsewhere.pop(tick, None)
        work.page.forget()
        self._poke(work)

    async def _look(self, key: bytes) -> Done[None] | Watch:
        result = await self._home.txn.run((), (op.get(key),))
        items = result.range(0).items
        if not items or not is_running(items[0].value):
            return Done(None)
        return Watch((Sight(key, on="any"),), result.revision)


def _under_way(work: _Work) -> Iterator[asyncio.Task[object]]:
    if work.acting is not None:
        yield work.acting
    for run in work.runs.values():
        if run.task is not None:
            yield run.task
