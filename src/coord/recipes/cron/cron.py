"""A schedule of jobs as applications hold it."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from coord.entry import check_name
from coord.errors import ClientClosed, CoordTimeout, InvalidArgument
from coord.names import as_text
from coord.recipes.cron.engine import Engine
from coord.recipes.cron.errors import BadSchedule, JobExists, UnknownJob
from coord.recipes.cron.job import Job, JobStatus, check_job_name
from coord.recipes.cron.layout import (
    JobDoc,
    Layout,
    State,
    decode_record,
    tick_id,
    tick_time,
)
from coord.recipes.cron.owners import ElectedOwner, PartitionedOwner
from coord.recipes.cron.rules import due_of
from coord.recipes.cron.schedule import parse_schedule
from coord.runtime import Backoff, finish
from coord.store import comparing as compare
from coord.store import operations as op
from coord.store.keys import prefix_range
from coord.store.paging import Pages
from coord.store.value_limits import to_value

if TYPE_CHECKING:
    from collections.abc import Callable

    from coord.cache import Mirrors
    from coord.coordination import Coordination
    from coord.recipes.cron.handling import Handler
    from coord.recipes.cron.job import Misfire, Policy, TickRecord
    from coord.recipes.cron.owners import Owner
    from coord.store.operations import Op
    from coord.store.values import KeyValue

Ownership = Literal["partitioned", "elected"]
H = TypeVar("H", bound="Callable[..., Any]")

_MS = timedelta(milliseconds=1)
_STOP_EXTRA_S = 15.0
_PAUSE_FIRST_S, _PAUSE_MOST_S = 0.005, 0.5


class Cron:
    """Jobs that start once per tick, in whichever process is there to run them. Made by ``client.cron(name)``.

    Jobs live in the store. Any number of processes call :meth:`run`; they agree on who sees to which job, and when one
    dies another takes its jobs over.

    **Clocks.** A tick begins when the wall clock of its scheduler says so: it is early or late by as much as that clock
    is wrong. Each tick begins once whatever the clocks, and also when they are set: a tick's key is created once, and
    the next tick follows from the last one, not from "now".
    """

    def __init__(
        self,
        home: Coordination,
        mirrors: Mirrors,
        name: str | bytes,
        *,
        ownership: Ownership = "partitioned",
        history: float = 7 * 86400,
        ttl: int | None = None,
    ) -> None:
        if ownership not in {"partitioned", "elected"}:
            raise InvalidArgument(f'ownership is "partitioned" or "elected", not {ownership!r}')
        if history < 1:
            raise InvalidArgument(f"history must be at least 1 second, not {history}")
        self._home = home
        self._mirrors = mirrors
        self.name: bytes = home.claim(check_name(name))
        """The name, as it stands in the store."""
        self._text = as_text(self.name)
        self._layout = Layout(self.name)
        self._history_s = history
        self._is_elected = ownership == "elected"
        self._ttl = ttl
        self._handlers: dict[str, Handler] = {}
        self._jobs: dict[str, Job] = {}

    # -- in this program -------------------------------------------------------------------------------------------

    def job(
        self,
        name: str,
        *,
        schedule: str,
        tz: str = "UTC",
        policy: Policy = "at_most_once",
        retries: int = 3,
        misfire: Misfire = "once",
        misfire_limit: int = 10,
        misfire_grace: float = 60.0,
        overlap: bool = False,
        timeout: float | None = None,
        jitter: float = 0.0,
        payload: Any = None,  # noqa: ANN401 - any JSON
    ) -> Callable[[H], H]:
        """Decorate the handler of a job, which :meth:`run` puts into the store: see :class:`Job`.

        The handler is called with a :class:`Tick`. A coroutine function runs on the loop that calls :meth:`run`, and is
        cancelled when its tick is lost or overdue. A plain function runs on a worker thread, of which a client has
        four, and has to look at ``tick.stopping``.
        """
        made = Job(
            name=name,
            schedule=schedule,
            tz=tz,
            policy=policy,
            retries=retries,
            misfire=misfire,
            misfire_limit=misfire_limit,
            misfire_grace=misfire_grace,
            overlap=overlap,
            timeout=timeout,
            jitter=jitter,
            payload=payload,
        )
        self._encoded(JobDoc(job=made, since=self._now()))

        def register(handler: H) -> H:
            self._jobs[name] = made
            self._handlers[name] = handler
            return handler

        return register

    def handler(self, name: str) -> Callable[[H], H]:
        """Decorate the handler of a job that is put into the store elsewhere."""
        check_job_name(name)

        def register(handler: H) -> H:
            self._handlers[name] = handler
            return handler

        return register

    async def run(self, handler: Handler | None = None, *, grace: float = 10.0) -> None:
        """See to the jobs until cancelled; ``handler`` is for those that have none of their own.

        Puts the jobs of :meth:`job` into the store first, where they replace what is there.
        Every scheduler needs the handlers of all jobs: what it has none for and has to see to it warns of, and leaves.
        When cancelled it begins nothing more, gives what runs ``grace`` seconds to end, cancels the rest, gives that
        back to the others, and lets them take over.
        Raises :class:`ClientClosed`, :class:`MissingExtra` when a job of somebody else needs ``coord[cron]``, and
        refusals of the store. A store that is away is waited for.
        """
        if not grace >= 0:
            raise InvalidArgument(f"grace must be 0 seconds or more, not {grace}")
        loop = asyncio.get_running_loop()
        for job in list(self._jobs.values()):
            with contextlib.suppress(_Over):
                await self._put(job, None)
        engine = Engine(
            self._home,
            self._mirrors,
            self.name,
            self._layout,
            self._owner(),
            handler_of=lambda name: self._handlers.get(name, handler),
            loop=loop,
            history_s=self._history_s,
        )

        async def stop() -> None:
            await engine.stop(grace)

        try:
            await self._home.run(engine.open())
            await self._home.run(engine.over())
        finally:
            with contextlib.suppress(ClientClosed, TimeoutError):
                await finish(self._home.run(stop()), within=grace + _STOP_EXTRA_S)

    def _owner(self) -> Owner:
        if self._is_elected:
            return ElectedOwner(self._home, self.name, self._ttl)
        return PartitionedOwner(self._home, self._mirrors, self.name, self._ttl)

    # -- jobs ------------------------------------------------------------------------------------------------------

    async def add(self, job: Job, *, timeout: float | None = None) -> None:
        """Add a job; its first tick is the next one by its schedule.

        Raises :class:`JobExists`, :class:`BadSchedule` for a schedule that says nothing, or nothing any more,
        :class:`PayloadTooLarge`, and what a write raises; it is added exactly once.
        """
        doc = self._new(job)
        raw, layout = self._key(job.name), self._layout
        done = await self._home.core.markers.run(
            (compare.create_revision(layout.jobs + raw) == 0,),
            (
                op.put(layout.jobs + raw, self._encoded(doc)),
                op.put(layout.state + raw, State().encode()),
            ),
            timeout=timeout,
        )
        if not done.applied:
            raise JobExists(self._text, job.name)

    async def put(self, job: Job, *, timeout: float | None = None) -> bool:
        """Add a job, or replace the one of that name; say whether anything had to be written.

        What is replaced stays paused or not as it was, and a tick that runs goes on. Of a new schedule the ticks count
        from now on.
        """
        return await self._put(job, timeout)

    async def _put(self, job: Job, timeout: float | None) -> bool:
        def changed(doc: JobDoc | None, _: State) -> JobDoc | None:
            if doc is None:
                return self._new(job)
            new = replace(job, paused=doc.job.paused)
            if new == doc.job:
                return None
            moved = (new.schedule, new.tz) != (doc.job.schedule, doc.job.tz)
            return replace(doc, job=new, since=self._now() if moved else doc.since)

        job.check()
        return await self._edit(job.name, changed, timeout)

    async def remove(self, name: str, *, timeout: float | None = None) -> bool:
        """Remove a job; say whether there was one. A tick that runs goes on to its end, and the history stays."""
        raw, layout = self._key(name), self._layout
        done = await self._home.core.markers.run(
            (compare.create_revision(layout.jobs + raw) != 0,),
            (op.delete(layout.jobs + raw), op.delete(layout.state + raw)),
            timeout=timeout,
        )
        return done.applied

    async def pause(self, name: str, *, timeout: float | None = None) -> bool:
        """Begin no tick of a job from now on; say whether it was running. Raises :class:`UnknownJob`.

        What runs goes on, and so do the further attempts of what has begun. :meth:`run_now` works.
        """
        return await self._set_paused(name, timeout, paused=True)

    async def resume(self, name: str, *, timeout: float | None = None) -> bool:
        """Go on with a job; say whether it was paused. Ticks in between are left out. Raises :class:`UnknownJob`."""
        return await self._set_paused(name, timeout, paused=False)

    async def _set_paused(self, name: str, timeout: float | None, *, paused: bool) -> bool:
        def changed(doc: JobDoc | None, _: State) -> JobDoc | None:
            if doc is None:
                raise UnknownJob(self._text, name)
            if doc.job.paused == paused:
                return None
            since = doc.since if paused else self._now()
            return replace(doc, job=replace(doc.job, paused=paused), since=since)

        return await self._edit(name, changed, timeout)

    async def run_now(self, name: str, *, timeout: float | None = None) -> datetime:
        """Have a job run once besides its schedule, as soon as its scheduler can; return the tick that stands for it.

        It waits for a run that goes on, unless the job may overlap. Also while the job is paused.
        Raises :class:`UnknownJob`, and :class:`InvalidArgument` while 32 such runs wait already.
        """
        asked = self._now()

        def changed(doc: JobDoc | None, state: State) -> JobDoc | None:
            nonlocal asked
            if doc is None:
                raise UnknownJob(self._text, name)
            # Never a whole second, which would be a tick of the schedule, and later than all that were asked for.
            asked = asked.replace(microsecond=asked.microsecond // 1000 * 1000)
            last = tick_time(max([state.last_asked, *doc.asked]))
            if last is not None and asked <= last:
                asked = last + _MS
            if not asked.microsecond:
                asked += _MS
            new = doc.with_asked(tick_id(asked), state.last_asked)
            if new is None:
                raise InvalidArgument(f"too many runs of job {name!r} that were asked for wait")
            return new

        await self._edit(name, changed, timeout)
        return asked

    async def _edit(
        self,
        name: str,
        change: Callable[[JobDoc | None, State], JobDoc | None],
        timeout: float | None,
    ) -> bool:
        """Write what ``change`` makes of a job, again when others came first; False when it makes nothing of it."""
        raw, layout, core = self._key(name), self._layout, self._home.core
        limit = core.caller.request_timeout if timeout is None else timeout
        deadline = core.env.clock.mono() + limit
        backoff = Backoff(core.env.rand, _PAUSE_FIRST_S, _PAUSE_MOST_S, spread=1)
        while True:
            left = deadline - core.env.clock.mono()
            if left <= 0:
                raise CoordTimeout(f"changing job {name!r}", limit, explain="others came first")
            result = await self._home.txn.run(
                (), (op.get(layout.jobs + raw), op.get(layout.state + raw)), timeout=left
            )
            found, state = (next(iter(result.range(n).items), None) for n in (0, 1))
            doc = None if found is None else JobDoc.decode(name, found.value)
            new = change(doc, State() if state is None else State.decode(state.value))
            if new is None:
                return False
            then: tuple[Op, ...] = (op.put(layout.jobs + raw, self._encoded(new)),)
            if found is None or state is None:
                then += (op.put(layout.state + raw, State().encode()),)
            done = await core.markers.run(
                (compare.mod_revision(layout.jobs + raw) == _revision(found),), then, timeout=left
            )
            if done.applied:
                return True
            await backoff.pause(left)

    # -- looking ---------------------------------------------------------------------------------------------------

    async def jobs(self, *, timeout: float | None = None) -> tuple[JobStatus, ...]:
        """Return the jobs by their names; what cannot be read is left out."""
        core, layout = self._home.core, self._layout
        states = {
            kv.key[len(layout.state) :]: State.decode(kv.value)
            async for page in Pages(core.kv, prefix_range(layout.state), timeout=timeout)
            for kv in page.items
        }
        found: list[JobStatus] = []
        async for page in Pages(core.kv, prefix_range(layout.jobs), timeout=timeout):
            for kv in page.items:
                raw = kv.key[len(layout.jobs) :]
                doc = JobDoc.decode(raw.decode(errors="surrogateescape"), kv.value)
                if doc is not None:
                    found.append(_status(doc, states.get(raw, State())))
        return tuple(found)

    async def history(
        self, name: str, *, limit: int = 100, timeout: float | None = None
    ) -> tuple[TickRecord, ...]:
        """Return what became of the last ticks of a job, the newest first; those that run are among them.

        Kept for at least the cron's ``history`` seconds, and at most twice as long.
        """
        if limit < 1:
            raise InvalidArgument(f"limit must be at least 1, not {limit}")
        prefix = self._layout.ticks_of(self._key(name))
        pages = Pages(self._home.core.kv, prefix_range(prefix), timeout=timeout)
        records = [
            record
            async for page in pages
            for kv in page.items
            if (record := decode_record(kv, prefix)) is not None
        ]
        return tuple(sorted(records, key=lambda record: record.tick, reverse=True)[:limit])

    # -- parts -----------------------------------------------------------------------------------------------------

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._home.env.clock.wall(), UTC)

    def _key(self, name: str) -> bytes:
        return check_job_name(name)

    def _new(self, job: Job) -> JobDoc:
        job.check()
        now = self._now()
        if parse_schedule(job.schedule, job.tz).after(now) is None:
            raise _Over(job.schedule, "it is over")
        return JobDoc(job=job, since=now)

    def _encoded(self, doc: JobDoc) -> bytes:
        doc.job.check()
        what = f"job {doc.job.name!r} of cron {self._text!r}"
        return to_value(doc.encode(), what, self._home.txn.max_value_bytes)


class _Over(BadSchedule):
    """All times of a schedule have passed."""


def _revision(found: KeyValue | None) -> int:
    return 0 if found is None else found.mod_revision


def _status(doc: JobDoc, state: State) -> JobStatus:
    last = tick_time(state.last_tick)
    schedule = parse_schedule(doc.job.schedule, doc.job.tz)
    coming = None if doc.job.paused else schedule.after(max(doc.since, last or doc.since))
    if coming is not None:
        coming = datetime.fromtimestamp(due_of(doc.job, coming), UTC)
    running = [moment for tick in state.running if (moment := tick_time(tick)) is not None]
    return JobStatus(job=doc.job, last_tick=last, next_tick=coming, running=tuple(sorted(running)))
