"""``register``, ``services`` and ``members``: who is there."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import click

from coord.cli.connection import Store, run
from coord.cli.holding import caught, until_signal, while_running
from coord.cli.options import (
    BadArguments,
    ChildCommand,
    Command,
    CommandFailed,
    child_of,
    duration,
    settings_of,
    to_bytes,
)
from coord.names import as_text
from coord.runtime import start_task

if TYPE_CHECKING:
    from coord.recipes.membership import GroupMember
    from coord.recipes.registry import Instance, Registration
    from coord.signals import OneShot

_WORDS = 2  # SERVICE ADDR


@dataclass(frozen=True, slots=True)
class _Listed:
    """A registration, as what a command runs under."""

    name: str
    registration: Registration

    @property
    def token(self) -> int:
        return self.registration.token

    @property
    def lost(self) -> OneShot:
        return self.registration.lost


@click.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="SERVICE ADDR")
@click.option("--id", "ident", help="Of the instance, unique in the service.  [default: ADDR]")
@click.option("--weight", type=int, default=1, show_default=True, help="For clients that weigh.")
@click.option("--zone", help="For clients that prefer their own.")
@click.option("--tag", "tags", multiple=True, help="May be given several times.")
@click.option("--metadata", metavar="JSON", help="An object of your own.")
@click.option(
    "--health", metavar="URL", help="http://host:port/path or tcp://host:port, asked every 5 s."
)
@click.option("--ttl", type=int, default=10, show_default=True, help="Seconds of the session.")
@click.option("--takeover", is_flag=True, help="Replace an instance of the same id.")
@click.option("--drain", type=duration, help="Say so, and wait so long, before leaving.")
@click.option(
    "--kill-after",
    type=duration,
    default="5s",
    show_default=True,
    help="Between SIGTERM and SIGKILL, when another takes the id over.",
)
@click.pass_context
def register(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    ident: str | None,
    weight: int,
    zone: str | None,
    tags: tuple[str, ...],
    metadata: str | None,
    health: str | None,
    ttl: int,
    takeover: bool,
    drain: float | None,
    kill_after: float,
) -> int:
    """List the instance of SERVICE at ADDR while COMMAND runs; without one, until Ctrl-C.

    The entry is what Go's naming/endpoints writes. It comes back when it was deleted or the store was away, and is
    gone when the health check fails three times in a row. Signals are passed on to COMMAND, and its exit code is
    passed back. If another process takes the id over, COMMAND is ended, and the exit code is 1.
    """
    command = child_of(ctx)
    if len(words) != _WORDS:
        raise BadArguments("register takes a service and an address.")
    service, addr = words
    extra = _object(metadata)

    async def work(store: Store) -> int:
        with caught() as signals:
            registry = store.client.registry(to_bytes(service), ttl=ttl)
            registration = await registry.register(
                addr,
                id=ident,
                weight=weight,
                zone=zone,
                tags=tags,
                metadata=extra,
                health=health,
                takeover=takeover,
                timeout=store.settings.command_timeout,
            )
            held = _Listed(f"{service}/{registration.id}", registration)
            try:
                if not command:
                    store.printer.data(registration.key)
                    return await until_signal(signals, held, "registration")
                told = {"COORD_INSTANCE_ID": registration.id, "COORD_INSTANCE_ADDR": addr}
                return await while_running(signals, held, "registration", command, told, kill_after)
            finally:
                if drain is not None and not registration.lost.is_set():
                    await registration.drain(drain)
                else:
                    await registration.deregister()

    return run(settings_of(ctx), work)


def _object(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found: object = json.loads(text)
    except ValueError as error:
        raise BadArguments(f"--metadata is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise BadArguments("--metadata must be a JSON object")
    return cast("dict[str, Any]", found)


@click.command(cls=Command)
@click.argument("prefix", default="")
@click.pass_context
def services(ctx: click.Context, prefix: str) -> int:
    """Show the services whose names start with PREFIX, an instance a line: service, id, address, health, weight, zone.

    Reads every key below PREFIX, for there is no list of services.
    """

    async def work(store: Store) -> None:
        found = await store.client.services(
            to_bytes(prefix), timeout=store.settings.command_timeout
        )
        if store.printer.as_json:
            shown = {name: [_shown(each) for each in who] for name, who in found.items()}
            store.printer.json(shown)
            return
        for name, who in found.items():
            for each in who:
                columns = (name, each.id, each.addr, each.health, str(each.weight), each.zone)
                store.printer.line(", ".join(columns))

    return run(settings_of(ctx), work)


def _shown(instance: Instance) -> dict[str, object]:
    return {
        "id": instance.id,
        "addr": instance.addr,
        "health": instance.health,
        "weight": instance.weight,
        "zone": instance.zone,
        "version": instance.version,
        "tags": list(instance.tags),
        "metadata": dict(instance.metadata),
        "token": instance.token,
    }


@click.command(cls=Command)
@click.argument("name")
@click.option("--watch", "-l", "follow", is_flag=True, help="Go on, and show each change.")
@click.pass_context
def members(ctx: click.Context, name: str, *, follow: bool) -> int:
    """Show the members of the group NAME, one a line: id, incarnation, data as JSON.

    With --watch a line begins with what happened: joined, rejoined, updated or left.
    """

    async def work(store: Store) -> int:
        group = store.client.membership(to_bytes(name))
        if not follow:
            found = await group.members(timeout=store.settings.command_timeout)
            if store.printer.as_json:
                store.printer.json([_member(each) for each in found])
            else:
                for each in found:
                    store.printer.line(_line(each))
            return 0

        async def show() -> None:
            async for event in group.watch():
                if store.printer.as_json:
                    store.printer.json({"event": event.kind.value} | _member(event.member))
                else:
                    store.printer.line(f"{event.kind.value}, {_line(event.member)}")

        with caught() as signals:
            showing, signalled = start_task(show()), start_task(signals.arrived.wait())
            try:
                await asyncio.wait({showing, signalled}, return_when=asyncio.FIRST_COMPLETED)
                if showing.done():
                    showing.result()
                    raise CommandFailed("the watch has ended")
            finally:
                for task in (showing, signalled):
                    task.cancel()
                await asyncio.wait({showing, signalled})
        return 0

    return run(settings_of(ctx), work)


def _member(member: GroupMember) -> dict[str, object]:
    return {"id": member.id, "token": member.token, "data": _plain(member.data)}


def _line(member: GroupMember) -> str:
    return f"{member.id}, {member.token}, {json.dumps(_plain(member.data), ensure_ascii=False)}"


def _plain(data: object) -> object:
    return as_text(data) if isinstance(data, bytes) else data
