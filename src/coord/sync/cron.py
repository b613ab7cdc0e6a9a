"""The twins of a schedule of jobs and of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from coord.errors import InvalidArgument
from coord.recipes import cron
from coord.recipes.cron.handling import is_coroutine
from coord.sync._portal import Twin
from coord.sync.grants import Grant
from coord.sync.signals import OneShot

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from coord.recipes.cron import Job, JobStatus, TickRecord
    from coord.recipes.cron.job import Misfire, Policy

    Handler = Callable[["Tick"], object]

H = TypeVar("H", bound="Callable[..., Any]")


class Tick(Grant[cron.Tick]):
    """A run of a job, as its handler sees it; see :class:`coord.Tick`."""

    __slots__ = ()

    @property
    def job(self) -> Job:
        """The job as it stood when the run began."""
        return self._async.job

    @property
    def at(self) -> datetime:
        """When it was due, in UTC; of a run that was asked for, when that was."""
        return self._async.at

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1."""
        return self._async.attempt

    @property
    def asked(self) -> bool:
        """Whether somebody has asked for it with ``run_now()``, instead of the schedule."""
        return self._async.asked

    @property
    def missed_since(self) -> datetime | None:
        """The first of the ticks that were left out before this one, None if none was."""
        return self._async.missed_since

    @property
    def stopping(self) -> OneShot:
        """Fires, with the reason, when the handler should end: look at it."""
        return OneShot(self._portal, self._async.stopping)

    @property
    def payload(self) -> Any:  # noqa: ANN401 - any JSON
        """What the job carries for its handler."""
        return self._async.payload


class Cron(Twin[cron.Cron]):
    """Jobs that start once per tick in the whole fleet; see :class:`coord.Cron`. Made by ``client.cron(name)``."""

    __slots__ = ()

    @property
    def name(self) -> bytes:
        """The name, as it stands in the store."""
        return self._async.name

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
        """Decorate the handler of a job, which :meth:`run` puts into the store: see :class:`coord.Job`.

        The handler is called with a :class:`Tick` on a worker thread, of which a client has four. Nothing can interrupt
        it: it looks at ``tick.stopping``.
        """
        register = self._async.job(
            name,
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
        return self._decorator(register)

    def handler(self, name: str) -> Callable[[H], H]:
        """Decorate the handler of a job that is put into the store elsewhere."""
        return self._decorator(self._async.handler(name))

    def _decorator(self, register: Callable[[Callable[..., Any]], object]) -> Callable[[H], H]:
        def decorate(handler: H) -> H:
            register(self._wrapped(handler))
            return handler

        return decorate

    def _wrapped(self, handler: Handler) -> Callable[[cron.Tick], object]:
        if is_coroutine(handler):
            raise InvalidArgument("a handler of coord.sync is a plain function")

        def call(tick: cron.Tick) -> object:
            return handler(Tick(self._portal, tick))

        return call

    def run(self, handler: Handler | None = None, *, grace: float = 10.0) -> None:
        """See to the jobs until Ctrl-C; ``handler`` is for those that have none of their own.

        As :meth:`coord.Cron.run`. Ctrl-C begins nothing more and is raised when what runs has ended, or after five
        seconds; what still runs then is finished in the background.
        """
        wrapped = None if handler is None else self._wrapped(handler)
        self._portal.call(self._async.run(wrapped, grace=grace))

    def add(self, job: Job, *, timeout: float | None = None) -> None:
        """Add a job; its first tick is the next one by its schedule.

        Raises :class:`coord.JobExists`, :class:`coord.BadSchedule`, :class:`coord.PayloadTooLarge`.
        """
        self._portal.call(self._async.add(job, timeout=timeout))

    def put(self, job: Job, *, timeout: float | None = None) -> bool:
        """Add a job, or replace the one of that name; say whether anything had to be written."""
        return self._portal.call(self._async.put(job, timeout=timeout))

    def remove(self, name: str, *, timeout: float | None = None) -> bool:
        """Remove a job; say whether there was one. A tick that runs goes on to its end, and the history stays."""
        return self._portal.call(self._async.remove(name, timeout=timeout))

    def pause(self, name: str, *, timeout: float | None = None) -> bool:
        """Begin no tick of a job from now on; say whether it was running. Raises :class:`coord.UnknownJob`."""
        return self._portal.call(self._async.pause(name, timeout=timeout))

    def resume(self, name: str, *, timeout: float | None = None) -> bool:
        """Go on with a job; say whether it was paused. Ticks in between are left out."""
        return self._portal.call(self._async.resume(name, timeout=timeout))

    def run_now(self, name: str, *, timeout: float | None = None) -> datetime:
        """Have a job run once besides its schedule, as soon as its scheduler can; return the tick that stands for it."""
        return self._portal.call(self._async.run_now(name, timeout=timeout))

    def jobs(self, *, timeout: float | None = None) -> tuple[JobStatus, ...]:
        """Return the jobs by their names; what cannot be read is left out."""
        return self._portal.call(self._async.jobs(timeout=timeout))

    def history(
        self, name: str, *, limit: int = 100, timeout: float | None = None
    ) -> tuple[TickRecord, ...]:
        """Return what became of the last ticks of a job, the newest first; those that run are among them."""
        return self._portal.call(self._async.history(name, limit=limit, timeout=timeout))
