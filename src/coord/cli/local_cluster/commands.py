"""``coord cluster start``, and the orders to what it runs."""

from __future__ import annotations

import asyncio

import click

from coord.cli.local_cluster.control import Order, give, socket_path
from coord.cli.options import BadArguments, Group, settings_of
from coord.cli.output import Printer

_MOST = 9
_data_dir = click.option(
    "--data-dir",
    metavar="DIR",
    help="Where the cluster keeps its data and its control socket.  [default: nothing is kept]",
)


@click.group(cls=Group)
def cluster() -> None:
    """Run a cluster of several members on this machine, and break it on purpose."""


@cluster.command()
@click.option(
    "-n",
    "--members",
    type=click.IntRange(1, _MOST),
    default=3,
    show_default=True,
    help="How many members.",
)
@_data_dir
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def start(members: int, data_dir: str | None, flags: tuple[str, ...]) -> int:
    """Run the members in the foreground, until Ctrl-C or `coord cluster stop`.

    Shows where each is reached, a line to set COORD_ENDPOINTS with, and the members' logs. FLAGS, which stand
    behind --, go to each coord-server.
    """
    from coord.cli.local_cluster.keeper import keep

    return keep(members, data_dir, flags)


def _order(ctx: click.Context, data_dir: str | None, order: Order) -> int:
    answer = asyncio.run(give(socket_path(data_dir), order))
    settings = settings_of(ctx)
    printer = Printer(as_json=settings.write_out == "json", as_hex=settings.hex)
    if printer.as_json and answer.values:
        printer.json(answer.values)
    else:
        for line in answer.lines:
            printer.line(line)
    return 0


@cluster.command()
@_data_dir
@click.pass_context
def status(ctx: click.Context, data_dir: str | None) -> int:
    """Show each member: leader, follower, no leader, paused, starting or stopped, and where it is."""
    return _order(ctx, data_dir, Order(verb="status"))


@cluster.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_data_dir
@click.pass_context
def kill(ctx: click.Context, data_dir: str | None, names: tuple[str, ...]) -> int:
    """Kill -9 members. `restart` brings them back."""
    return _order(ctx, data_dir, Order(verb="kill", names=names))


@cluster.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_data_dir
@click.pass_context
def pause(ctx: click.Context, data_dir: str | None, names: tuple[str, ...]) -> int:
    """Let members hold still (SIGSTOP); their connections stay."""
    return _order(ctx, data_dir, Order(verb="pause", names=names))


@cluster.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_data_dir
@click.pass_context
def resume(ctx: click.Context, data_dir: str | None, names: tuple[str, ...]) -> int:
    """Let paused members go on."""
    return _order(ctx, data_dir, Order(verb="resume", names=names))


@cluster.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_data_dir
@click.pass_context
def restart(ctx: click.Context, data_dir: str | None, names: tuple[str, ...]) -> int:
    """Stop members if they run, and start them with the data that they had."""
    return _order(ctx, data_dir, Order(verb="restart", names=names))


@cluster.command()
@click.argument("sides", metavar="NAME,.../NAME,...")
@_data_dir
@click.pass_context
def partition(ctx: click.Context, data_dir: str | None, sides: str) -> int:
    """Let members reach only those of their own side; who is not named is on one more side.

    `partition m1` cuts m1 off; `partition m1,m2/m3` says the same of m3. Clients reach all members still.
    """
    parsed = tuple(tuple(name for name in side.split(",") if name) for side in sides.split("/"))
    if not all(parsed):
        raise BadArguments(f"{sides!r} does not name members, as in m1 or m1,m2/m3")
    names = tuple(name for side in parsed for name in side)
    return _order(ctx, data_dir, Order(verb="partition", names=names, sides=parsed))


@cluster.command()
@_data_dir
@click.pass_context
def heal(ctx: click.Context, data_dir: str | None) -> int:
    """End a partition."""
    return _order(ctx, data_dir, Order(verb="heal"))


@cluster.command()
@_data_dir
@click.pass_context
def stop(ctx: click.Context, data_dir: str | None) -> int:
    """End the cluster, as Ctrl-C in its shell does."""
    return _order(ctx, data_dir, Order(verb="stop"))
