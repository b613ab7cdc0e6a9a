"""``watch``."""

from __future__ import annotations

import asyncio
import json
import os
import string
import sys
from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.keys import key_range
from coord.cli.options import (
    EXIT_INTERRUPTED,
    ChildCommand,
    CommandFailed,
    child_of,
    settings_of,
)
from coord.cli.output import encoded, header_of
from coord.errors import Compacted, PermissionDenied, RequestRefused
from coord.store.values import EventType
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.store.values import KeyValue, WatchBatch, WatchEvent


# What stands for itself in a quoted Go string that is not valid UTF-8.
_PLAIN = frozenset(string.printable) - frozenset(string.whitespace + '"\\') | {" "}


@click.command(cls=ChildCommand)
@click.argument("words", nargs=-1, metavar="KEY [END]")
@click.option("--prefix", is_flag=True, help="All keys that start with KEY.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--rev", type=int, default=0, help="Begin with the changes of this revision.")
@click.option("--prev-kv", is_flag=True, help="Also show the pair before each change.")
@click.option("--progress-notify", is_flag=True, help="Tell now and then how far the watch is.")
@click.pass_context
def watch(
    ctx: click.Context,
    words: tuple[str, ...],
    *,
    prefix: bool,
    from_key: bool,
    rev: int,
    prev_kv: bool,
    progress_notify: bool,
) -> int:
    """Show each change of KEY, or of the range from KEY to END, until Ctrl-C.

    A COMMAND runs once for each change, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE, ETCD_WATCH_KEY and
    ETCD_WATCH_VALUE in its environment. Lost connections are made good: no change is missing, none comes twice.
    """
    key, end = key_range("watch", words, prefix=prefix, from_key=from_key)
    command = child_of(ctx)

    async def work(store: Store) -> int:
        header = await _header(store) if store.printer.as_json else dict[str, object]()
        async with store.client.watch(
            key,
            end=end or None,
            start_revision=rev or None,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
        ) as changes:
            try:
                async for batch in changes.batches():
                    _show(store, batch, header)
                    for event in batch.events:
                        await _run_for(event, batch.revision, command)
            except (RequestRefused, PermissionDenied) as error:
                _canceled(error)
        return 0

    return run(settings_of(ctx), work)


def _canceled(error: RequestRefused | PermissionDenied) -> None:
    oldest = ""
    if isinstance(error, Compacted) and error.compact_revision:
        oldest = f"; the oldest revision is {error.compact_revision}"
    print(f"watch was canceled ({error.message}{oldest})", file=sys.stderr)  # noqa: T201
    raise CommandFailed("watch is canceled by the server", EXIT_INTERRUPTED) from error


async def _header(store: Store) -> Mapping[str, object]:
    """Learn who answers here: the watch itself tells only revisions."""
    request = rpc_pb2.RangeRequest(key=b"\0", count_only=True, serializable=True)
    response = await store.call(methods.KV_RANGE, request)
    return header_of(response)


def _show(store: Store, batch: WatchBatch, header: Mapping[str, object]) -> None:
    printer = store.printer
    if printer.as_json:
        # Replacing a value keeps its place: the order of the fields is the header's own.
        shown = {**header, "revision": batch.revision}
        events = [_as_json(event) for event in batch.events]
        rest = {"CompactRevision": 0, "Canceled": False, "Created": False}
        printer.json({"Header": shown, "Events": events, **rest})
        return
    if not batch.events:
        printer.line(f"progress notify: {batch.revision}")
    for event in batch.events:
        printer.line(event.type.name)
        if event.previous is not None:
            printer.data(event.previous.key)
            printer.data(event.previous.value)
        printer.data(event.key)
        printer.data(event.value)


def _as_json(event: WatchEvent) -> dict[str, object]:
    shown: dict[str, object] = {} if event.type is EventType.PUT else {"type": event.type.value}
    shown["kv"] = _pair(event.kv)
    if event.previous is not None:
        shown["prev_kv"] = _pair(event.previous)
    return shown


def _pair(kv: KeyValue) -> dict[str, object]:
    fields = {
        "key": encoded(kv.key),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "value": encoded(kv.value),
        "lease": kv.lease,
    }
    return {name: value for name, value in fields.items() if value}


async def _run_for(event: WatchEvent, revision: int, command: list[str]) -> None:
    """Run the command of ``watch KEY -- COMMAND`` for one change. Raises :class:`CommandFailed` if it fails."""
    if not command:
        return
    told = {
        "ETCD_WATCH_REVISION": str(revision),
        "ETCD_WATCH_EVENT_TYPE": _quoted(event.type.name.encode()),
        "ETCD_WATCH_KEY": _quoted(event.key),
        "ETCD_WATCH_VALUE": _quoted(event.value),
    }
    process = await asyncio.create_subprocess_exec(*command, env={**os.environ, **told})
    code = await process.wait()
    if code:
        raise CommandFailed(f"command {json.dumps(command)} error (exit status {code})")


def _quoted(data: bytes) -> str:
    """Return ``data`` as a quoted Go string, as etcdctl hands it to commands."""
    try:
        return json.dumps(data.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        return '"' + "".join(map(_escaped, data)) + '"'


def _escaped(byte: int) -> str:
    character = chr(byte)
    return character if character in _PLAIN else f"\\x{byte:02x}"
