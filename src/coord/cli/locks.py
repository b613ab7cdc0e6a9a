"""``lock`` and ``elect``: one line of contenders with Go's concurrency package, etcdctl and the server's services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.holding import caught, entry_of, hold, or_signal, run_under
from coord.cli.options import (
    BadArguments,
    ChildCommand,
    CommandFailed,
    child_of,
    duration,
    settings_of,
    to_bytes,
)

if TYPE_CHECKING:
    from coord.mutex import Mutex, MutexGrant

_CANDIDATE_WORDS = 2  # NAME PROPOSAL


@click.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="NAME")
@click.option("--ttl", type=int, default=10, show_default=True, help="Seconds of the session.")
@click.option("--timeout", type=duration, help="Wait at most so long for the lock.")
@click.option("--try", "try_", is_flag=True, help="Do not wait at all.")
@click.option("--lock-delay", type=duration, help="So much longer after a holder that died.")
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when the lock is lost.",
)
@click.pass_context
def lock(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    ttl: int,
    timeout: float | None,
    try_: bool,
    lock_delay: float | None,
    kill_after: float,
) -> int:
    """Hold the lock NAME while COMMAND runs; without one, until Ctrl-C.

    COMMAND finds ETCD_LOCK_KEY, ETCD_LOCK_REV and COORD_FENCING_TOKEN in its environment. Signals are passed on to
    it, and its exit code is passed back (128 + n after signal n). If the lock is lost it is ended, and the exit
    code is 1.

    The token rises with each holder. Hand it to whatever COMMAND writes to: that is what stops a holder that slept.
    """
    child = child_of(ctx)
    name, *rest = words or ("",)
    if not words or (child and rest):
        raise BadArguments("lock takes one lock name argument and an optional command to execute.")
    command = child or rest
    if try_ and timeout is not None:
        raise BadArguments("--try does not wait: give either --try or --timeout")

    async def work(store: Store) -> int:
        with caught() as signals:
            async with store.client.session(ttl=ttl) as session:
                mutex = store.client.mutex(
                    to_bytes(name), session=session, lock_delay=lock_delay or 0
                )
                waiting = _take(mutex) if try_ else mutex.acquire(timeout=timeout)
                grant = await or_signal(waiting, signals, f"waiting for lock {name}")
                if not command:
                    return await hold(store, signals, grant, "lock")
                told = {
                    "COORD_FENCING_TOKEN": str(grant.token),
                    "ETCD_LOCK_KEY": grant.key.decode(errors="surrogateescape"),
                    "ETCD_LOCK_REV": str((await entry_of(store, grant)).header.revision),
                }
                return await run_under(signals, grant, "lock", command, told, kill_after)

    return run(settings_of(ctx), work)


async def _take(mutex: Mutex) -> MutexGrant:
    """Take a free lock. Raises :class:`CommandFailed` that says who has it."""
    grant = await mutex.try_acquire()
    if grant is not None:
        return grant
    holder = await mutex.holder()
    who = "" if holder is None else f" by {holder.key.decode(errors='backslashreplace')}"
    raise CommandFailed(f"lock {mutex.name.decode(errors='backslashreplace')} is held{who}")


@click.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="NAME [PROPOSAL]")
@click.option("-l", "--listen", is_flag=True, help="Look on: show each new leader.")
@click.option("--ttl", type=int, default=60, show_default=True, help="Seconds of the session.")
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when leadership is lost.",
)
@click.pass_context
def elect(
    ctx: click.Context, words: tuple[str, ...], *, listen: bool, ttl: int, kill_after: float
) -> int:
    """Stand for election NAME with PROPOSAL; lead while COMMAND runs, without one until Ctrl-C.

    COMMAND finds COORD_LEADER_KEY and COORD_FENCING_TOKEN in its environment; else as `coord lock`.
    """
    command = child_of(ctx)
    name, proposal = (*words, "", "")[:2]
    if listen and (len(words) != 1 or command):
        raise BadArguments("elect -l takes one election name argument")
    if not listen and len(words) != _CANDIDATE_WORDS:
        raise BadArguments("elect takes one election name argument and one proposal argument.")

    async def look_on(store: Store) -> int:
        with caught() as signals:
            return await or_signal(_observe(store, name), signals, "observing")

    async def stand(store: Store) -> int:
        with caught() as signals:
            async with store.client.session(ttl=ttl) as session:
                election = store.client.election(to_bytes(name), session=session)
                waiting = election.campaign(to_bytes(proposal))
                term = await or_signal(waiting, signals, f"campaigning for {name}")
                if not command:
                    return await hold(store, signals, term, "leadership")
                told = {
                    "COORD_FENCING_TOKEN": str(term.token),
                    "COORD_LEADER_KEY": term.key.decode(errors="surrogateescape"),
                }
                return await run_under(signals, term, "leadership", command, told, kill_after)

    return run(settings_of(ctx), look_on if listen else stand)


async def _observe(store: Store, name: str) -> int:
    async for leader in store.client.election(to_bytes(name)).observe():
        if leader is None:
            continue
        if store.printer.as_json:
            store.printer.json(await entry_of(store, leader))
        else:
            store.printer.data(leader.key)
            store.printer.data(leader.value)
    return 0
