"""``rate``: permits per second for scripts of a whole fleet."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.holding import CANNOT_RUN, NOT_FOUND, caught, or_signal
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
    from coord.recipes.rate_limiter import LimiterState, RateLimiter, RateMode

_MODES = ("auto", "strict", "divided")
_ANY_RATE = 1.0  # of a limiter that is only looked at
_MOST_WORDS = 2  # NAME RATE


@click.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="NAME [RATE]")
@click.option("-n", "--permits", type=int, default=1, show_default=True, help="How many to take.")
@click.option("--burst", type=float, help="How many there may be at once  [default: RATE]")
@click.option(
    "--mode", type=click.Choice(_MODES), default="auto", show_default=True, help="How to share."
)
@click.option("--fair", is_flag=True, help="First come first served, among those who say so.")
@click.option("--set", "set_", is_flag=True, help="Change the rate, for everybody; take nothing.")
@click.option("--list", "list_", is_flag=True, help="Show the limiter and who shares it.")
@click.option("--timeout", type=duration, help="Wait at most so long for the permits.")
@click.option("--try", "try_", is_flag=True, help="Do not wait at all.")
@click.pass_context
def rate(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    permits: int,
    burst: float | None,
    mode: RateMode,
    fair: bool,
    set_: bool,
    list_: bool,
    timeout: float | None,
    try_: bool,
) -> int:
    """Wait for a permit of the limiter NAME, of RATE permits per second; then run COMMAND, if there is one.

    All who use NAME share the rate, and must give the same RATE and --burst. COMMAND takes the place of this process.

    With mode `divided` each command is a new member, whose first permit comes after some seconds: for scripts that
    take one permit each, `strict` is the better one.
    """
    command = child_of(ctx)
    if not 1 <= len(words) <= _MOST_WORDS:
        raise BadArguments("rate takes one name argument and one rate argument")
    if try_ and timeout is not None:
        raise BadArguments("--try does not wait: give either --try or --timeout")
    if (list_ or set_) and (command or try_ or timeout is not None):
        raise BadArguments("rate --list and --set take a name argument, and no command")
    given = words[1:]
    if not given and (set_ or not list_):
        raise BadArguments("rate takes one name argument and one rate argument")
    name, figure = words[0], _figure(*given) if given else _ANY_RATE

    def made(store: Store) -> RateLimiter:
        return store.client.rate_limiter(to_bytes(name), figure, burst=burst, mode=mode, fair=fair)

    async def look_on(store: Store) -> None:
        async with made(store) as limiter:
            if set_:
                await limiter.set_rate(figure, burst)
            if list_:
                _show(store, await limiter.state())

    async def work(store: Store) -> None:
        with caught() as signals:
            async with made(store) as limiter:
                if not try_:
                    waiting = limiter.acquire(permits, timeout=timeout)
                    await or_signal(waiting, signals, f"waiting for rate limiter {name}")
                elif not await limiter.try_acquire(permits):
                    raise CommandFailed(f"rate limiter {name} has no {_several(permits)} now")

    code = run(settings_of(ctx), look_on if list_ or set_ else work)
    return _become(command) if command and not code else code


def _figure(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise BadArguments(f"bad rate ({word!r}), expecting permits per second") from None


def _several(permits: int) -> str:
    return "permit" if permits == 1 else f"{permits} permits"


def _become(command: list[str]) -> int:
    """Run ``command`` instead of this process: nothing is held that could be lost."""
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)  # noqa: S606 - what the user has typed
    except FileNotFoundError as error:
        raise CommandFailed(f"{command[0]}: command not found", NOT_FOUND) from error
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}", CANNOT_RUN) from error


def _show(store: Store, state: LimiterState) -> None:
    if store.printer.as_json:
        store.printer.json(
            {
                "mode": state.mode,
                "rate": state.rate,
                "burst": state.burst,
                "available": state.available if state.mode == "strict" else None,
                "members": [
                    {"id": member.id, "weight": member.weight, "share": member.share}
                    for member in state.members
                ],
            }
        )
        return
    line = f"{state.mode}: {state.rate:g} per second, {state.burst:g} at once"
    if state.mode == "strict":
        line += f", {int(state.available)} available"
    store.printer.line(line)
    for member in state.members:
        store.printer.line(f"{member.id} has {member.share:g} (weight {member.weight:g})")
