"""``barrier`` and ``latch``: scripts that wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.holding import caught, or_signal, while_running
from coord.cli.options import (
    ChildCommand,
    CommandFailed,
    Group,
    child_of,
    duration,
    settings_of,
    to_bytes,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any


@click.group(cls=Group)
def barrier() -> None:
    """Close, open, and wait at a gate: closed while the key NAME exists."""


@barrier.command(cls=ChildCommand)
@click.argument("name")
@click.option(
    "--ttl", type=int, default=10, show_default=True, help="With COMMAND: seconds of the session."
)
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when the gate is lost.",
)
@click.pass_context
def hold(ctx: click.Context, name: str, *, ttl: int, kill_after: float) -> int:
    """Close the gate NAME, until somebody releases it; with COMMAND, while that runs.

    Prints the name and the token, a number that is higher each time. Fails if the gate is closed already.
    COMMAND finds COORD_FENCING_TOKEN in its environment; the gate opens with its end, and if this process dies, after
    --ttl seconds. Else as `coord lock`.
    """
    command = child_of(ctx)

    async def close(store: Store) -> None:
        gate = await store.client.barrier(to_bytes(name)).hold()
        if store.printer.as_json:
            store.printer.json({"name": name, "token": gate.token})
        else:
            store.printer.line(name)
            store.printer.line(str(gate.token))

    async def close_while_running(store: Store) -> int:
        with caught() as signals:
            async with store.client.session(ttl=ttl) as session:
                gate = await store.client.barrier(to_bytes(name), session=session).hold(leased=True)
                told = {"COORD_FENCING_TOKEN": str(gate.token)}
                code = await while_running(signals, gate, "barrier", command, told, kill_after)
                if not await gate.release():
                    raise CommandFailed(
                        f"barrier lost: {name} (token {gate.token}), before the command ended"
                    )
                return code

    return run(settings_of(ctx), close_while_running if command else close)


@barrier.command()
@click.argument("name")
@click.pass_context
def release(ctx: click.Context, name: str) -> int:
    """Open the gate NAME, whoever has closed it. Says so if it was open."""

    async def work(store: Store) -> None:
        was_closed = await store.client.barrier(to_bytes(name)).release(force=True)
        if store.printer.as_json:
            store.printer.json({"name": name, "released": was_closed})
        elif not was_closed:
            store.printer.line(f"barrier {name} was open")

    return run(settings_of(ctx), work)


@barrier.command()
@click.argument("name")
@click.option("--timeout", type=duration, help="Wait at most so long.")
@click.pass_context
def wait(ctx: click.Context, name: str, *, timeout: float | None) -> int:
    """Wait until the gate NAME is open; at once if it is."""

    async def work(store: Store) -> int:
        passing = store.client.barrier(to_bytes(name)).wait(timeout=timeout)
        return await _until(passing, f"waiting at barrier {name}")

    return run(settings_of(ctx), work)


@click.group(cls=Group)
def latch() -> None:
    """Count arrivals at NAME, and wait until COUNT have arrived."""


@latch.command("count-down")
@click.argument("name")
@click.argument("count", type=int)
@click.option("--who", default="", help="Who arrives: the same one counts once. Else somebody new.")
@click.pass_context
def count_down(ctx: click.Context, name: str, count: int, *, who: str) -> int:
    """Report an arrival, and print how many of COUNT are missing."""

    async def work(store: Store) -> None:
        arriving = to_bytes(who) if who else None
        _show(store, name, await store.client.latch(to_bytes(name), count).count_down(arriving))

    return run(settings_of(ctx), work)


@latch.command("wait")
@click.argument("name")
@click.argument("count", type=int)
@click.option("--timeout", type=duration, help="Wait at most so long.")
@click.pass_context
def wait_for_latch(ctx: click.Context, name: str, count: int, *, timeout: float | None) -> int:
    """Wait until COUNT have arrived; at once if they have."""

    async def work(store: Store) -> int:
        opening = store.client.latch(to_bytes(name), count).wait(timeout=timeout)
        return await _until(opening, f"waiting for latch {name}")

    return run(settings_of(ctx), work)


@latch.command()
@click.argument("name")
@click.argument("count", type=int)
@click.pass_context
def remaining(ctx: click.Context, name: str, count: int) -> int:
    """Print how many of COUNT are missing."""

    async def work(store: Store) -> None:
        _show(store, name, await store.client.latch(to_bytes(name), count).remaining())

    return run(settings_of(ctx), work)


@latch.command()
@click.argument("name")
@click.argument("count", type=int)
@click.pass_context
def reset(ctx: click.Context, name: str, count: int) -> int:
    """Close an open latch again, for COUNT new arrivals."""

    async def work(store: Store) -> None:
        await store.client.latch(to_bytes(name), count).reset(count)

    return run(settings_of(ctx), work)


def _show(store: Store, name: str, missing: int) -> None:
    if store.printer.as_json:
        store.printer.json({"name": name, "remaining": missing})
    else:
        store.printer.line(str(missing))


async def _until(waiting: Coroutine[Any, Any, None], what: str) -> int:
    """Wait, or until a signal comes."""
    with caught() as signals:
        await or_signal(waiting, signals, what)
    return 0
