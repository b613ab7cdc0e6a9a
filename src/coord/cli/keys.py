"""``get``, ``put``, ``del`` and ``compaction``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from coord.cli.connection import Store, run
from coord.cli.login import settle
from coord.cli.options import (
    EXIT_UNSUPPORTED,
    BadArguments,
    Command,
    CommandFailed,
    parse_lease,
    settings_of,
    to_bytes,
)
from coord.store.caller import Repeat
from coord.store.keys import prefix_end
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence


class RangeOptions(TypedDict):
    """The options of ``get``."""

    prefix: bool
    from_key: bool
    rev: int
    limit: int
    sort_by: str
    order: str
    keys_only: bool
    count_only: bool
    print_value_only: bool
    consistency: str
    min_mod_rev: int
    max_mod_rev: int
    min_create_rev: int
    max_create_rev: int


class PutOptions(TypedDict):
    """The options of ``put``."""

    lease: str | None
    prev_kv: bool
    ignore_value: bool
    ignore_lease: bool


class DeleteOptions(TypedDict):
    """The options of ``del``."""

    prefix: bool
    from_key: bool
    prev_kv: bool


_EVERYTHING = b"\0"  # as a key the smallest there is, as an end no end at all
_TARGETS = {
    "CREATE": rpc_pb2.RangeRequest.CREATE,
    "KEY": rpc_pb2.RangeRequest.KEY,
    "MODIFY": rpc_pb2.RangeRequest.MOD,
    "VALUE": rpc_pb2.RangeRequest.VALUE,
    "VERSION": rpc_pb2.RangeRequest.VERSION,
}
_ORDERS = {
    "": rpc_pb2.RangeRequest.NONE,
    "ASCEND": rpc_pb2.RangeRequest.ASCEND,
    "DESCEND": rpc_pb2.RangeRequest.DESCEND,
}


def key_range(
    command: str, words: Sequence[str], *, prefix: bool, from_key: bool = False
) -> tuple[bytes, bytes]:
    """Return key and range end, from one or two words and the flags. Raises :class:`BadArguments`."""
    if not 1 <= len(words) <= 2:  # noqa: PLR2004 - KEY [END]
        raise BadArguments(
            f"{command} command needs one argument as key and an optional argument as range_end"
        )
    if prefix and from_key:
        raise BadArguments("`--prefix` and `--from-key` cannot be set at the same time, choose one")
    key = to_bytes(words[0])
    if not prefix and not from_key:
        return key, to_bytes(words[1]) if len(words) > 1 else b""
    if len(words) > 1:
        raise BadArguments(
            "too many arguments, only accept one argument when `--prefix` or `--from-key` is set"
        )
    if from_key:
        return key or _EVERYTHING, _EVERYTHING
    return (key, prefix_end(key)) if key else (_EVERYTHING, _EVERYTHING)


def range_request(words: Sequence[str], given: RangeOptions) -> rpc_pb2.RangeRequest:
    """Build the request of ``get`` from its arguments. Raises :class:`CommandFailed`."""
    key, end = key_range("get", words, prefix=given["prefix"], from_key=given["from_key"])
    if given["keys_only"] and given["count_only"]:
        raise BadArguments(
            "`--keys-only` and `--count-only` cannot be set at the same time, choose one"
        )
    consistency, order = given["consistency"], given["order"].upper()
    target = given["sort_by"].upper()
    if consistency not in ("l", "s"):
        raise CommandFailed(f'unknown consistency flag "{consistency}"', EXIT_UNSUPPORTED)
    if order not in _ORDERS:
        raise CommandFailed(f"bad sort order {given['order']}", EXIT_UNSUPPORTED)
    if target and target not in _TARGETS:
        raise CommandFailed(f"bad sort target {given['sort_by']}", EXIT_UNSUPPORTED)
    return rpc_pb2.RangeRequest(
        key=key,
        range_end=end,
        limit=given["limit"],
        revision=given["rev"],
        sort_order=_ORDERS[order],
        sort_target=_TARGETS[target or "KEY"],
        serializable=consistency == "s",
        keys_only=given["keys_only"],
        count_only=given["count_only"],
        min_mod_revision=given["min_mod_rev"],
        max_mod_revision=given["max_mod_rev"],
        min_create_revision=given["min_create_rev"],
        max_create_revision=given["max_create_rev"],
    )


@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="KEY [END]")
@click.option("--prefix", is_flag=True, help="All keys that start with KEY.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--rev", type=int, default=0, help="Read as of this revision.")
@click.option("--limit", type=int, default=0, help="At most so many results.")
@click.option(
    "--sort-by", default="", metavar="WHAT", help="CREATE, KEY, MODIFY, VALUE or VERSION."
)
@click.option("--order", default="", metavar="WAY", help="ASCEND or DESCEND.")
@click.option("--keys-only", is_flag=True, help="Leave the values out.")
@click.option("--count-only", is_flag=True, help="Only how many there are.")
@click.option("--print-value-only", is_flag=True, help="Leave the keys out.")
@click.option("--consistency", default="l", metavar="l|s", help="Linearizable or serializable.")
@click.option("--min-mod-rev", type=int, default=0, help="Leave out keys modified before.")
@click.option("--max-mod-rev", type=int, default=0, help="Leave out keys modified after.")
@click.option("--min-create-rev", type=int, default=0, help="Leave out keys created before.")
@click.option("--max-create-rev", type=int, default=0, help="Leave out keys created after.")
@click.pass_context
def get(ctx: click.Context, /, words: tuple[str, ...], **given: Unpack[RangeOptions]) -> int:
    """Read KEY, or the range from KEY to END.

    Prints each key and its value on lines of their own; nothing for a missing key.
    """
    request = range_request(words, given)
    values_only: bool = given["print_value_only"]

    if values_only and settings_of(ctx).write_out != "simple":
        raise BadArguments("print-value-only is only for `--write-out=simple`")

    async def work(store: Store) -> None:
        response = await store.call(methods.KV_RANGE, request)
        if store.printer.as_json:
            store.printer.json(response)
        elif request.count_only:
            store.printer.line(str(response.count))
        else:
            store.printer.get(response, keys=not values_only)

    return run(settings_of(ctx), work)


def put_request(words: Sequence[str], value: bytes | None, given: PutOptions) -> rpc_pb2.PutRequest:
    """Build the request of ``put``; ``value`` stands in for a missing second word. Raises :class:`BadArguments`."""
    ignore_value: bool = given["ignore_value"]
    if not words or len(words) > 2:  # noqa: PLR2004 - KEY [VALUE]
        raise BadArguments("put command needs 1 argument and input from stdin or 2 arguments")
    if ignore_value and len(words) > 1:
        raise BadArguments("put command needs only 1 argument when 'ignore-value' is set")
    if given["ignore_lease"] and given["lease"] is not None:
        raise BadArguments("`--lease` and `--ignore-lease` contradict")
    if len(words) > 1:
        value = to_bytes(words[1])
    return rpc_pb2.PutRequest(
        key=to_bytes(words[0]),
        value=b"" if ignore_value or value is None else value,
        lease=parse_lease(given["lease"]) if given["lease"] is not None else 0,
        prev_kv=given["prev_kv"],
        ignore_value=ignore_value,
        ignore_lease=given["ignore_lease"],
    )


@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="KEY [VALUE]")
@click.option("--lease", metavar="ID", help="Attach the key to this lease (in hex).")
@click.option("--prev-kv", is_flag=True, help="Also print the pair before.")
@click.option("--ignore-value", is_flag=True, help="Keep the value: change only the lease.")
@click.option("--ignore-lease", is_flag=True, help="Keep the lease.")
@click.pass_context
def put(ctx: click.Context, /, words: tuple[str, ...], **given: Unpack[PutOptions]) -> int:
    """Write VALUE at KEY; without VALUE, what standard input holds.

    A value that begins with a dash stands behind --.
    """
    piped = None
    if len(words) == 1 and not given["ignore_value"]:
        put_request(words, b"", given)  # wrong arguments are told before anything is read
        settle(settings_of(ctx))  # a password comes first
        piped = sys.stdin.buffer.read()
    request = put_request(words, piped, given)

    async def work(store: Store) -> None:
        response = await store.call(methods.KV_PUT, request, repeat=Repeat.ONCE)
        if store.printer.as_json:
            store.printer.json(response)
        else:
            store.printer.put(response)

    return run(settings_of(ctx), work)


def delete_request(words: Sequence[str], given: DeleteOptions) -> rpc_pb2.DeleteRangeRequest:
    """Build the request of ``del``. Raises :class:`BadArguments`."""
    key, end = key_range("del", words, prefix=given["prefix"], from_key=given["from_key"])
    return rpc_pb2.DeleteRangeRequest(key=key, range_end=end, prev_kv=given["prev_kv"])


@click.command("del", cls=Command)
@click.argument("words", nargs=-1, metavar="KEY [END]")
@click.option("--prefix", is_flag=True, help="All keys that start with KEY.")
@click.option("--from-key", is_flag=True, help="All keys from KEY on.")
@click.option("--prev-kv", is_flag=True, help="Also print what was deleted.")
@click.option("--range", is_flag=True, hidden=True, expose_value=False)  # 3.6: END must be meant
@click.pass_context
def delete(ctx: click.Context, /, words: tuple[str, ...], **given: Unpack[DeleteOptions]) -> int:
    """Delete KEY, or the range from KEY to END, and print how many keys that were."""
    request = delete_request(words, given)

    async def work(store: Store) -> None:
        response = await store.call(methods.KV_DELETE_RANGE, request, repeat=Repeat.ONCE)
        if store.printer.as_json:
            store.printer.json(response)
        else:
            store.printer.delete(response)

    return run(settings_of(ctx), work)


@click.command(cls=Command)
@click.argument("revision", type=int)
@click.option("--physical", is_flag=True, help="Wait until it is gone from the disk, too.")
@click.pass_context
def compaction(ctx: click.Context, revision: int, *, physical: bool) -> int:
    """Forget history below REVISION."""
    request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)

    async def work(store: Store) -> None:
        await store.call(methods.KV_COMPACT, request, repeat=Repeat.ONCE)
        store.printer.line(f"compacted revision {revision}")

    return run(settings_of(ctx), work)
