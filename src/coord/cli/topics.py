"""``topic``: publish, and show what is published."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.options import BadArguments, Group, settings_of, to_bytes
from coord.recipes.topic import Gap

if TYPE_CHECKING:
    from coord.recipes.topic.subscription import From


@click.group(cls=Group)
def topic() -> None:
    """Publish messages, and show them in their order."""


@topic.command()
@click.argument("name")
@click.argument("value", default="-")
@click.option("--header", multiple=True, metavar="NAME=TEXT", help="As often as you like.")
@click.option("--retention", type=float, default=3600, show_default=True, help="Seconds.")
@click.pass_context
def publish(
    ctx: click.Context, name: str, value: str, *, header: tuple[str, ...], retention: float
) -> int:
    """Publish VALUE, or what standard input holds; print its revision."""
    raw = sys.stdin.buffer.read() if value == "-" else to_bytes(value)
    headers: dict[str, str] = {}
    for each in header:
        title, sign, text = each.partition("=")
        if not sign:
            raise BadArguments(f"a header is NAME=TEXT, not {each!r}")
        headers[title] = text

    async def work(store: Store) -> None:
        made = store.client.topic(to_bytes(name), retention=retention)
        store.printer.line(str(await made.publish(raw, headers=headers)))

    return run(settings_of(ctx), work)


@topic.command()
@click.argument("name")
@click.option(
    "--from", "from_", default="latest", show_default=True, help="latest, earliest or a revision."
)
@click.option("--durable", metavar="ID", help="Go on where ID has stopped.")
@click.option("--count", type=int, help="Stop after so many messages.")
@click.option("--retention", type=float, default=3600, show_default=True, help="Seconds.")
@click.pass_context
def subscribe(
    ctx: click.Context,
    name: str,
    *,
    from_: str,
    durable: str | None,
    count: int | None,
    retention: float,
) -> int:
    """Print the value of each message on a line; gaps are told on standard error."""
    start: From = "latest"
    if from_ == "earliest":
        start = "earliest"
    elif from_.isdigit():
        start = int(from_)
    elif from_ != "latest":
        raise BadArguments("--from is latest, earliest or a revision")

    async def work(store: Store) -> None:
        made = store.client.topic(to_bytes(name), retention=retention)
        seen = 0
        async with made.subscribe(from_=start, durable=durable) as subscription:
            while count is None or seen < count:
                item = await anext(subscription)
                if isinstance(item, Gap):
                    print(f"gap: {item.start} to {item.end}", file=sys.stderr)  # noqa: T201 - a program
                    continue
                store.printer.data(item.value)
                seen += 1
                if durable is not None and seen == count:
                    await item.commit()

    return run(settings_of(ctx), work)
