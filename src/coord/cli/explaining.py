"""``explain``: what stands behind a name, or what this client itself is doing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.options import Command, settings_of, to_bytes
from coord.cli.output import encoded

if TYPE_CHECKING:
    from coord.explaining import NameExplanation, Place


@click.command(cls=Command)
@click.argument("name")
@click.pass_context
def explain(ctx: click.Context, name: str) -> int:
    """Say which recipe NAME belongs to, who holds it, who waits, and what the holder itself waits for.

    The recipe is told by the keys alone: locks, semaphores, barriers, queues, services, groups, rate limiters.
    """

    async def work(store: Store) -> None:
        limit = store.settings.command_timeout
        told = await store.client.explain(to_bytes(name), timeout=limit)
        if store.printer.as_json:
            store.printer.json(_shown(told))
        else:
            for line in told.lines():
                store.printer.line(line)

    return run(settings_of(ctx), work)


def _shown(told: NameExplanation) -> dict[str, object]:
    """Return it for JSON, keys in base64 as everywhere."""
    return {
        "layout": told.layout,
        "facts": list(told.facts),
        "holders": [_place(place) for place in told.holders],
        "waiting": [_place(place) for place in told.waiters],
        "waits": [
            {
                "name": encoded(wait.name),
                "lease": wait.lease_id,
                "ahead": wait.ahead,
                "holder": wait.holder,
            }
            for wait in told.waits
        ],
        "circular": told.circular,
    }


def _place(place: Place) -> dict[str, object]:
    return {
        "key": encoded(place.key),
        "token": place.token,
        "lease": place.lease_id,
        "role": place.role,
        "age": place.age,
        "ttl_left": place.ttl_left,
        "metadata": dict(place.metadata),
    }
