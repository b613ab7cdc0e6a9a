"""``multilock``: several locks at once, around a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.holding import caught, or_signal, until_signal, while_running
from coord.cli.options import (
    BadArguments,
    ChildCommand,
    CommandFailed,
    child_of,
    duration,
    settings_of,
    to_bytes,
)
from coord.names import as_text
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from coord.recipes.multi_lock import MultiLock, MultiLockGrant

_NOUN = "locks"


@click.command(cls=ChildCommand)
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--ttl", type=int, default=10, show_default=True, help="Seconds of the session.")
@click.option("--timeout", type=duration, help="Wait at most so long for the locks.")
@click.option("--try", "try_", is_flag=True, help="Do not wait at all.")
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when a lock is lost.",
)
@click.pass_context
def multilock(
    ctx: click.Context,
    names: tuple[str, ...],
    *,
    ttl: int,
    timeout: float | None,
    try_: bool,
    kill_after: float,
) -> int:
    """Hold the locks NAME... at once while COMMAND runs; without one, until Ctrl-C.

    They are those of `coord lock`, taken all together or not at all, so their order does not matter. COMMAND finds
    COORD_FENCING_TOKEN, one for all, and COORD_LOCK_KEYS, one key on each line, in its environment; else as
    `coord lock`.
    """
    command = child_of(ctx)
    if not names:
        raise BadArguments("multilock takes at least one lock name argument")
    if try_ and timeout is not None:
        raise BadArguments("--try does not wait: give either --try or --timeout")

    async def work(store: Store) -> int:
        with caught() as signals:
            async with store.client.session(ttl=ttl) as session:
                lock = store.client.multi_lock([to_bytes(n) for n in names], session=session)
                waiting = _take(lock) if try_ else lock.acquire(timeout=timeout)
                grant = await or_signal(waiting, signals, f"waiting for locks {' '.join(names)}")
                if command:
                    keys = b"\n".join(grant.keys).decode(errors="surrogateescape")
                    told = {"COORD_FENCING_TOKEN": str(grant.token), "COORD_LOCK_KEYS": keys}
                    code = await while_running(signals, grant, _NOUN, command, told, kill_after)
                else:
                    await _show(store, grant)
                    code = await until_signal(signals, grant, _NOUN)
                if not await grant.release():
                    raise CommandFailed(f"locks lost: {grant.name} (token {grant.token})")
                return code

    return run(settings_of(ctx), work)


async def _take(lock: MultiLock) -> MultiLockGrant:
    """Take free locks. Raises :class:`CommandFailed`."""
    grant = await lock.try_acquire()
    if grant is None:
        names = as_text(b" ".join(lock.names))
        raise CommandFailed(f"not all locks are free: {names}")
    return grant


async def _show(store: Store, grant: MultiLockGrant) -> None:
    for key in grant.keys:
        entry = await store.call(methods.KV_RANGE, rpc_pb2.RangeRequest(key=key))
        if store.printer.as_json:
            store.printer.json(entry)
        else:
            store.printer.get(entry)
