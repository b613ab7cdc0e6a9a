"""``cron``: scheduled jobs, and a command that runs for each of their ticks."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, cast

import click
from typing_extensions import override

from coord.cli.connection import Store, run
from coord.cli.holding import Interrupted, Signals, caught, or_signal, while_running
from coord.cli.options import (
    BadArguments,
    ChildCommand,
    CommandFailed,
    Group,
    child_of,
    duration,
    full_name,
    settings_of,
    to_bytes,
)
from coord.recipes.cron import Job, JobExists

if TYPE_CHECKING:
    import coord
    from coord.recipes.cron.job import Misfire, Policy


class _EitherOrder(Group):
    """Takes the name before the verb, too: ``coord cron NAME list``."""

    @override
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        verbs = [full_name(word, self.commands) for word in args[:2]]
        if len(verbs) > 1 and verbs[0] is None and verbs[1] is not None:
            args = [args[1], args[0], *args[2:]]
        return super().parse_args(ctx, args)


@click.group(cls=_EitherOrder)
def cron() -> None:
    """Schedule jobs under NAME, and run a command for each of their ticks: once in the whole fleet."""


@cron.command("list")
@click.argument("name")
@click.pass_context
def list_jobs(ctx: click.Context, name: str) -> int:
    """Show the jobs: name, schedule, time zone, the next tick, and what runs."""

    async def work(store: Store) -> None:
        for status in await store.client.cron(to_bytes(name)).jobs():
            job = status.job
            if store.printer.as_json:
                store.printer.json({key: _shown(each) for key, each in asdict(status).items()})
                continue
            coming = "paused" if job.paused else _time(status.next_tick)
            running = "".join([f" running {_time(tick)}" for tick in status.running])
            store.printer.line(f"{job.name} {job.schedule!r} {job.tz} {coming}{running}")

    return run(settings_of(ctx), work)


@cron.command()
@click.argument("name")
@click.argument("job")
@click.argument("schedule")
@click.option("--tz", default="UTC", show_default=True, help="Time zone of the schedule.")
@click.option("--payload", default="", help="Text that the command gets on its standard input.")
@click.option(
    "--policy",
    type=click.Choice(["at_most_once", "at_least_once"]),
    default="at_most_once",
    show_default=True,
    help="Whether a tick may be begun again.",
)
@click.option("--retries", type=int, default=3, show_default=True, help="How often, then.")
@click.option(
    "--misfire",
    type=click.Choice(["skip", "once", "all"]),
    default="once",
    show_default=True,
    help="What becomes of ticks that nobody was there for.",
)
@click.option("--limit", type=int, default=10, show_default=True, help="With --misfire=all.")
@click.option("--overlap", is_flag=True, help="Begin a tick while an earlier one still runs.")
@click.option("--timeout", type=duration, help="End a run after so long.")
@click.option("--jitter", type=duration, help="Begin each tick up to so much later.")
@click.option("--paused", is_flag=True, help="Begin nothing before `resume`.")
@click.option("--replace", is_flag=True, help="Replace a job of this name.")
@click.pass_context
def add(  # noqa: PLR0913 - everything that a job can be told
    ctx: click.Context,
    name: str,
    job: str,
    schedule: str,
    *,
    tz: str,
    payload: str,
    policy: Policy,
    retries: int,
    misfire: Misfire,
    limit: int,
    overlap: bool,
    timeout: float | None,
    jitter: float | None,
    paused: bool,
    replace: bool,
) -> int:
    """Add JOB, which is due by SCHEDULE: "0 3 * * 1-5", @hourly, "@every 5m", "@at 2026-12-24T18:00"."""
    made = Job(
        name=job,
        schedule=schedule,
        tz=tz,
        policy=policy,
        retries=retries,
        misfire=misfire,
        misfire_limit=limit,
        overlap=overlap,
        timeout=timeout,
        jitter=jitter or 0.0,
        paused=paused,
        payload=payload or None,
    )

    async def work(store: Store) -> None:
        schedules = store.client.cron(to_bytes(name))
        if replace:
            await schedules.put(made)
            return
        try:
            await schedules.add(made)
        except JobExists as error:
            raise CommandFailed(f"cron {name} has a job {job} already: --replace") from error

    return run(settings_of(ctx), work)


@cron.command()
@click.argument("name")
@click.argument("job")
@click.pass_context
def remove(ctx: click.Context, name: str, job: str) -> int:
    """Remove JOB. What runs of it goes on."""

    async def work(store: Store) -> None:
        if not await store.client.cron(to_bytes(name)).remove(job):
            raise CommandFailed(f"cron {name} has no job {job}")

    return run(settings_of(ctx), work)


@cron.command()
@click.argument("name")
@click.argument("job")
@click.pass_context
def pause(ctx: click.Context, name: str, job: str) -> int:
    """Begin no tick of JOB from now on. What runs goes on, and `run-now` works."""

    async def work(store: Store) -> None:
        await store.client.cron(to_bytes(name)).pause(job)

    return run(settings_of(ctx), work)


@cron.command()
@click.argument("name")
@click.argument("job")
@click.pass_context
def resume(ctx: click.Context, name: str, job: str) -> int:
    """Go on with JOB. Ticks in between are left out."""

    async def work(store: Store) -> None:
        await store.client.cron(to_bytes(name)).resume(job)

    return run(settings_of(ctx), work)


@cron.command("run-now")
@click.argument("name")
@click.argument("job")
@click.pass_context
def run_now(ctx: click.Context, name: str, job: str) -> int:
    """Have JOB run once besides its schedule, and print the tick that stands for it."""

    async def work(store: Store) -> None:
        asked = await store.client.cron(to_bytes(name)).run_now(job)
        if store.printer.as_json:
            store.printer.json({"job": job, "tick": asked.isoformat()})
        else:
            store.printer.line(_time(asked))

    return run(settings_of(ctx), work)


@cron.command()
@click.argument("name")
@click.argument("job")
@click.option("--limit", type=int, default=20, show_default=True, help="So many at most.")
@click.pass_context
def history(ctx: click.Context, name: str, job: str, *, limit: int) -> int:
    """Show what became of the last ticks of JOB, the newest first: tick, outcome, attempt, token, error."""

    async def work(store: Store) -> None:
        for record in await store.client.cron(to_bytes(name)).history(job, limit=limit):
            if store.printer.as_json:
                store.printer.json({key: _shown(each) for key, each in asdict(record).items()})
                continue
            since = f" since {_time(record.missed_since)}" if record.missed_since else ""
            error = f" {record.error!r}" if record.error else ""
            store.printer.line(
                f"{_time(record.tick)} {record.outcome}{since} {record.attempt} {record.token}{error}"
            )

    return run(settings_of(ctx), work)


@cron.command(cls=ChildCommand)
@click.argument("name")
@click.option("--ttl", type=int, default=10, show_default=True, help="Seconds of the session.")
@click.option(
    "--elected", is_flag=True, help="Let one scheduler see to all jobs; all must say the same."
)
@click.option(
    "--grace",
    type=duration,
    default="10s",
    show_default=True,
    help="What runs may take so long to end, after a signal.",
)
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when a run is lost or overdue.",
)
@click.pass_context
def serve(
    ctx: click.Context, name: str, *, ttl: int, elected: bool, grace: float, kill_after: float
) -> int:
    """Run COMMAND for each tick of the jobs under NAME, until a signal comes.

    COMMAND gets the payload on its standard input, and finds COORD_CRON_JOB, COORD_CRON_TICK, COORD_CRON_ATTEMPT and
    COORD_FENCING_TOKEN in its environment. Exit code 0 says that it is done.
    Any number of these share the jobs among them; when one dies, another goes on after --ttl seconds.
    """
    command = child_of(ctx)
    if not command:
        raise BadArguments("serve takes a command after --")

    async def handle(tick: coord.Tick) -> None:
        told = {
            "COORD_CRON_JOB": tick.job.name,
            "COORD_CRON_TICK": _time(tick.at),
            "COORD_CRON_ATTEMPT": str(tick.attempt),
            "COORD_FENCING_TOKEN": str(tick.token),
        }
        # Signals are for all runs: they end the scheduler, which ends the runs.
        code = await while_running(
            Signals(), tick, "tick", command, told, kill_after, given=_given(tick.payload)
        )
        if code != 0:
            raise CommandFailed(f"exit code {code}")

    async def work(store: Store) -> int:
        schedules = store.client.cron(
            to_bytes(name), ownership="elected" if elected else "partitioned", ttl=ttl
        )
        with caught() as signals:
            try:
                await or_signal(schedules.run(handle, grace=grace), signals, f"serving cron {name}")
            except Interrupted:
                return 0
        return 0

    return run(settings_of(ctx), work)


def _given(payload: object) -> bytes:
    """Return what a command gets to read: text as it is, anything else as JSON."""
    if payload is None:
        return b""
    text = payload if isinstance(payload, str) else json.dumps(payload)
    return text.encode(errors="surrogateescape")


def _time(moment: datetime | None) -> str:
    if moment is None:
        return "-"
    ms = "milliseconds" if moment.microsecond else "seconds"
    return moment.isoformat(timespec=ms).replace("+00:00", "Z")


def _shown(value: object) -> object:
    """Return what JSON can say, with times as text."""
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, tuple):  # the payload has none: it comes from JSON
        return [_shown(each) for each in cast("tuple[object, ...]", value)]
    return value
