"""``rwlock`` and ``semaphore``: what several may hold at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import click

from coord.cli.connection import Store, run
from coord.cli.holding import caught, hold, or_signal, run_under
from coord.cli.options import (
    BadArguments,
    ChildCommand,
    CommandFailed,
    child_of,
    duration,
    settings_of,
    to_bytes,
)
from coord.cli.output import encoded
from coord.metadata import place_of
from coord.names import as_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.grants import Grant
    from coord.locking.entries import LineEntry
    from coord.recipes.rwlock import ReadGrant, RWLock, WriteGrant
    from coord.recipes.semaphore import PermitEntry, Semaphore


def _name_and_command(ctx: click.Context, words: tuple[str, ...]) -> tuple[str, list[str]]:
    child = child_of(ctx)
    name, *rest = words or ("",)
    if not words or (child and rest):
        raise BadArguments(
            f"{ctx.info_name} takes one name argument and an optional command to execute."
        )
    return name, child or rest


def _who(entry: LineEntry) -> str:
    key = as_text(entry.key)
    return f"{key} (token {entry.token}{place_of(entry.metadata)})"


def _shown(entry: LineEntry) -> dict[str, object]:
    """Return an entry for JSON, its key in base64 as everywhere."""
    return {
        "key": encoded(entry.key),
        "token": entry.token,
        "lease": entry.lease_id,
        "metadata": dict(entry.metadata),
    }


# -- read-write locks ----------------------------------------------------------------------------------------------


@click.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="NAME")
@click.option("--read", "mode", flag_value="read", help="Hold it beside other readers.")
@click.option("--write", "mode", flag_value="write", help="Hold it alone.")
@click.option("--list", "mode", flag_value="list", help="Show who holds it and who waits.")
@click.option("--ttl", type=int, default=10, show_default=True, help="Seconds of the session.")
@click.option("--timeout", type=duration, help="Wait at most so long for the lock.")
@click.option("--try", "try_", is_flag=True, help="Do not wait at all.")
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when the lock is lost.",
)
@click.pass_context
def rwlock(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    mode: Literal["read", "write", "list"] | None,
    ttl: int,
    timeout: float | None,
    try_: bool,
    kill_after: float,
) -> int:
    """Hold the read-write lock NAME while COMMAND runs; without one, until Ctrl-C.

    Many may read at once, one writes alone; who came first is served first.

    COMMAND finds COORD_LOCK_KEY and COORD_FENCING_TOKEN in its environment; else as `coord lock`.
    """
    name, command = _name_and_command(ctx, words)
    if mode is None:
        raise BadArguments("rwlock needs one of --read, --write and --list")
    if try_ and timeout is not None:
        raise BadArguments("--try does not wait: give either --try or --timeout")
    if mode == "list" and (command or try_ or timeout is not None):
        raise BadArguments("rwlock --list takes one name argument")

    async def look_on(store: Store) -> int:
        await _list_lock(store, store.client.rwlock(to_bytes(name)))
        return 0

    async def work(store: Store) -> int:
        with caught() as signals:
            async with store.client.session(ttl=ttl) as session:
                rw = store.client.rwlock(to_bytes(name), session=session)
                side = rw.read() if mode == "read" else rw.write()
                waiting = _take(rw, mode) if try_ else side.acquire(timeout=timeout)
                grant = await or_signal(waiting, signals, f"waiting for lock {name}")
                if not command:
                    return await hold(store, signals, grant, "lock")
                told = {
                    "COORD_FENCING_TOKEN": str(grant.token),
                    "COORD_LOCK_KEY": grant.key.decode(errors="surrogateescape"),
                }
                return await run_under(signals, grant, "lock", command, told, kill_after)

    return run(settings_of(ctx), look_on if mode == "list" else work)


async def _take(rw: RWLock, mode: str) -> ReadGrant | WriteGrant:
    """Take a free lock. Raises :class:`CommandFailed` that says who has it."""
    grant = await (rw.read() if mode == "read" else rw.write()).try_acquire()
    if grant is not None:
        return grant
    state = await rw.state()
    first = state.writer or next(iter((*state.readers, *state.waiting)), None)
    who = "" if first is None else f" by {_who(first)}"
    raise CommandFailed(f"lock {rw.name.decode(errors='backslashreplace')} is held{who}")


async def _list_lock(store: Store, rw: RWLock) -> None:
    state = await rw.state()
    writers = () if state.writer is None else (state.writer,)
    if store.printer.as_json:
        store.printer.json(
            {
                "readers": [_shown(entry) for entry in state.readers],
                "writers": [_shown(entry) for entry in writers],
                "waiting": [{"mode": entry.mode, **_shown(entry)} for entry in state.waiting],
            }
        )
        return
    for entry in state.readers:
        store.printer.line(f"reads {_who(entry)}")
    for entry in writers:
        store.printer.line(f"writes {_who(entry)}")
    for entry in state.waiting:
        store.printer.line(f"waits to {entry.mode} {_who(entry)}")


# -- semaphores ----------------------------------------------------------------------------------------------------


@click.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="NAME")
@click.option("-n", "--permits", type=int, default=1, show_default=True, help="How many to hold.")
@click.option("--limit", type=int, help="How many there are; fails if the store has it otherwise.")
@click.option("--initial-limit", type=int, help="How many there are, if nobody has said so yet.")
@click.option("--set-limit", type=int, help="Change how many there are, for everybody.")
@click.option("--list", "list_", is_flag=True, help="Show who holds permits and who waits.")
@click.option("--ttl", type=int, default=10, show_default=True, help="Seconds of the session.")
@click.option("--timeout", type=duration, help="Wait at most so long for the permits.")
@click.option("--try", "try_", is_flag=True, help="Do not wait at all.")
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when the permits are lost.",
)
@click.pass_context
def semaphore(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    permits: int,
    limit: int | None,
    initial_limit: int | None,
    set_limit: int | None,
    list_: bool,
    ttl: int,
    timeout: float | None,
    try_: bool,
    kill_after: float,
) -> int:
    """Hold permits of the semaphore NAME while COMMAND runs; without one, until Ctrl-C.

    COMMAND finds COORD_PERMIT_KEY and COORD_PERMIT_TOKEN in its environment; else as `coord lock`. Others may hold
    permits at the same time: the token tells who came first, and fences nobody off.
    """
    name, command = _name_and_command(ctx, words)
    if try_ and timeout is not None:
        raise BadArguments("--try does not wait: give either --try or --timeout")
    if (list_ or set_limit is not None) and (command or try_ or timeout is not None):
        raise BadArguments("semaphore --list and --set-limit take one name argument")

    async def look_on(store: Store) -> int:
        chosen = store.client.semaphore(to_bytes(name), limit=limit, initial_limit=initial_limit)
        if set_limit is not None:
            await chosen.set_limit(set_limit)
        if list_:
            await _list_semaphore(store, chosen)
        return 0

    async def work(store: Store) -> int:
        with caught() as signals:
            async with store.client.session(ttl=ttl) as session:
                chosen = store.client.semaphore(
                    to_bytes(name), limit=limit, initial_limit=initial_limit, session=session
                )
                waiting = (
                    _take_permits(chosen, permits)
                    if try_
                    else chosen.acquire(permits, timeout=timeout)
                )
                grant: Grant = await or_signal(waiting, signals, f"waiting for semaphore {name}")
                if not command:
                    return await hold(store, signals, grant, "permit")
                told = {
                    "COORD_PERMIT_TOKEN": str(grant.token),
                    "COORD_PERMIT_KEY": grant.key.decode(errors="surrogateescape"),
                }
                return await run_under(signals, grant, "permit", command, told, kill_after)

    return run(settings_of(ctx), look_on if list_ or set_limit is not None else work)


async def _take_permits(semaphore: Semaphore, permits: int) -> Grant:
    """Take free permits. Raises :class:`CommandFailed` that says how many there are."""
    permit = await semaphore.try_acquire(permits)
    if permit is not None:
        return permit
    state = await semaphore.state()
    raise CommandFailed(
        f"semaphore {semaphore.name.decode(errors='backslashreplace')} has {max(0, state.available)} of {state.limit}"
        f" permits free, {len(state.waiting)} wait"
    )


async def _list_semaphore(store: Store, semaphore: Semaphore) -> None:
    state = await semaphore.state()

    def shown(entries: Iterable[PermitEntry]) -> list[object]:
        return [{"permits": entry.permits, **_shown(entry)} for entry in entries]

    if store.printer.as_json:
        store.printer.json(
            {
                "limit": state.limit,
                "available": state.available,
                "holders": shown(state.holders),
                "waiting": shown(state.waiting),
            }
        )
        return
    store.printer.line(f"limit {state.limit}, available {state.available}")
    for verb, entries in (("holds", state.holders), ("waits for", state.waiting)):
        for entry in entries:
            store.printer.line(f"{verb} {entry.permits} {_who(entry)}")
