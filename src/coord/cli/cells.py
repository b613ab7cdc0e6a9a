"""``counter`` and ``config``: shared numbers, and configuration with a history."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

import coord
from coord.cli.connection import Store, run
from coord.cli.options import BadArguments, CommandFailed, Group, settings_of, to_bytes

if TYPE_CHECKING:
    from coord.recipes.config import Config


@click.group(cls=Group)
def counter() -> None:
    """Read, add to and set shared numbers, exactly once each time."""


@counter.command("get")
@click.argument("name")
@click.pass_context
def counter_get(ctx: click.Context, name: str) -> int:
    """Print the number, 0 if there is none."""

    async def work(store: Store) -> None:
        value = await store.client.counter(to_bytes(name), bigint=True).value()
        store.printer.line(str(value))

    return run(settings_of(ctx), work)


@counter.command()
@click.argument("name")
@click.argument("n", type=int, default=1)
@click.pass_context
def add(ctx: click.Context, name: str, n: int) -> int:
    """Add N (default 1; write `-- -5` for a negative one) and print the sum."""

    async def work(store: Store) -> None:
        store.printer.line(str(await store.client.counter(to_bytes(name)).add(n)))

    return run(settings_of(ctx), work)


@counter.command()
@click.argument("name")
@click.argument("value", type=int, default=0)
@click.pass_context
def reset(ctx: click.Context, name: str, value: int) -> int:
    """Set the number to VALUE, 0 by default."""

    async def work(store: Store) -> None:
        await store.client.counter(to_bytes(name)).reset(value)
        store.printer.line("OK")

    return run(settings_of(ctx), work)


@click.group(cls=Group)
def config() -> None:
    """Show, publish and roll back configuration: JSON documents with a history."""


async def _opened(store: Store, name: str) -> Config[Any]:
    # With a default, so that whatever is there can be replaced.
    codec = coord.codec.JSON
    limit = store.settings.command_timeout
    return await store.client.config(to_bytes(name), codec, default=None, timeout=limit)


@config.command("get")
@click.argument("name")
@click.pass_context
def config_get(ctx: click.Context, name: str) -> int:
    """Print the document."""

    async def work(store: Store) -> None:
        found = await store.client.get(to_bytes(name))
        if found is None:
            raise CommandFailed(f"nobody has published configuration {name}")
        store.printer.data(found.value)

    return run(settings_of(ctx), work)


@config.command()
@click.argument("name")
@click.argument("document", default="-")
@click.option("--expect", type=int, help="Only if nothing newer than this revision was written.")
@click.option("--canary", type=float, help="Only for so many percent of all instances.")
@click.pass_context
def publish(
    ctx: click.Context, name: str, document: str, *, expect: int | None, canary: float | None
) -> int:
    """Write DOCUMENT, which is JSON, or what standard input holds; print its revision."""
    text = sys.stdin.read() if document == "-" else document
    try:
        value = json.loads(text)
    except ValueError as error:
        raise BadArguments(f"the document is no JSON: {error}") from None
    if canary is not None and expect is not None:
        raise BadArguments("give either --canary or --expect")

    async def work(store: Store) -> None:
        async with await _opened(store, name) as opened:
            if canary is not None:
                revision = await opened.canary(value, canary)
            else:
                revision = await opened.publish(value, expected_revision=expect)
            store.printer.line(str(revision))

    return run(settings_of(ctx), work)


@config.command()
@click.argument("name")
@click.pass_context
def history(ctx: click.Context, name: str) -> int:
    """Print revision and document, the present one first."""

    async def work(store: Store) -> None:
        async with await _opened(store, name) as opened:
            found = await store.client.get(opened.name)
            pairs = [] if found is None else [(found.mod_revision, found.value)]
            pairs += [(old.revision, old.value or b"") for old in await opened.history()]
            for revision, raw in pairs:
                store.printer.line(b"%d %b" % (revision, raw))

    return run(settings_of(ctx), work)


@config.command()
@click.argument("name")
@click.argument("revision", type=int)
@click.pass_context
def rollback(ctx: click.Context, name: str, revision: int) -> int:
    """Publish again what was written at REVISION; print the new revision."""

    async def work(store: Store) -> None:
        async with await _opened(store, name) as opened:
            store.printer.line(str(await opened.rollback(revision)))

    return run(settings_of(ctx), work)
