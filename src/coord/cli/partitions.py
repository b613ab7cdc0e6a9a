"""``partitions``: who owns what."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.options import BadArguments, Command, settings_of, to_bytes

if TYPE_CHECKING:
    from coord.recipes.partitioner import Assignment


@click.command(cls=Command)
@click.argument("name")
@click.argument("partitions", nargs=-1, metavar="[PARTITION...]")
@click.option("--count", type=int, help="The partitions are 0, 1, ... up to so many.")
@click.pass_context
def partitions(
    ctx: click.Context, name: str, partitions: tuple[str, ...], *, count: int | None
) -> int:
    """Show the members of the partitioner NAME, who owns which partition, and which have no owner.

    One a line: ``member`` with id, weight and how many it owns; ``owned`` with partition, member and token;
    ``unowned`` with the partition. The store does not know which partitions there should be: say so with PARTITION...
    or --count, or none is shown as unowned.
    """
    if count is not None and (partitions or count < 0):
        raise BadArguments("give either partitions, or a --count of 0 or more.")
    wanted = partitions if count is None else count

    async def work(store: Store) -> None:
        found = await store.client.partitioner(to_bytes(name), wanted).assignment(
            timeout=store.settings.command_timeout
        )
        if store.printer.as_json:
            store.printer.json(_shown(found))
            return
        for line in _lines(found):
            store.printer.line(", ".join(line))

    return run(settings_of(ctx), work)


def _lines(found: Assignment) -> list[tuple[str, ...]]:
    owned = Counter(owner.member for owner in found.owners.values())
    return [
        *[("member", each.id, str(each.weight), str(owned[each.id])) for each in found.members],
        *[("owned", p, own.member, str(own.token)) for p, own in sorted(found.owners.items())],
        *[("unowned", p) for p in found.unowned],
    ]


def _shown(found: Assignment) -> dict[str, object]:
    return {
        "revision": found.revision,
        "members": [
            {"id": each.id, "weight": each.weight, "token": each.token} for each in found.members
        ],
        "owners": {
            p: {"member": own.member, "token": own.token} for p, own in sorted(found.owners.items())
        },
        "unowned": list(found.unowned),
    }
