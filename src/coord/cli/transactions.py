"""``txn``: etcdctl's text form of a transaction.

Three blocks of lines, each ended by an empty one: comparisons, requests if all of them hold, requests otherwise.

    mod("key1") > "0"

    put key1 "new value"

    get key1 --prefix
"""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING, cast

import click

from coord.cli import keys
from coord.cli.connection import Store, run
from coord.cli.login import settle
from coord.cli.options import (
    EXIT_INVALID_INPUT,
    Command,
    CommandFailed,
    settings_of,
    to_bytes,
)
from coord.cli.output import header_of, plain
from coord.store.caller import Repeat
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord.cli.output import Printer

_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_COMPARISON = re.compile(rf"\s*(\w+)\s*\(\s*{_QUOTED}\s*\)\s*([=!<>]+)\s*{_QUOTED}\s*")
_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{3}|.)")
_LETTERS = {
    b"n": b"\n",
    b"t": b"\t",
    b"r": b"\r",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
}
_OPERATORS = {
    "=": rpc_pb2.Compare.EQUAL,
    "!=": rpc_pb2.Compare.NOT_EQUAL,
    "<": rpc_pb2.Compare.LESS,
    ">": rpc_pb2.Compare.GREATER,
}
_BLOCKS = ("compares:", "success requests (get, put, del):", "failure requests (get, put, del):")


def _bad(text: str) -> CommandFailed:
    return CommandFailed(text, EXIT_INVALID_INPUT)


@click.command(cls=Command)
@click.option("-i", "--interactive", is_flag=True, help="Say which block is read.")
@click.pass_context
def txn(ctx: click.Context, *, interactive: bool) -> int:
    r"""Run a transaction that is read from standard input, in three blocks that end with an empty line.

    \b
        mod("key1") > "0"            comparisons: ver, create, mod, val, lease; = != < >
    \b
        put key1 "new value"         requests if all of them hold
    \b
        get key1                     requests otherwise
    """
    settle(settings_of(ctx))  # a password on standard input comes first
    blocks: list[list[str]] = []
    for prompt in _BLOCKS:
        if interactive:
            click.echo(prompt)
        blocks.append(list(_block()))
    request = rpc_pb2.TxnRequest(
        compare=[comparison(line) for line in blocks[0]],
        success=[_request(line) for line in blocks[1]],
        failure=[_request(line) for line in blocks[2]],
    )

    async def work(store: Store) -> None:
        response = await store.call(methods.KV_TXN, request, repeat=Repeat.ONCE)
        _show(store.printer, response)

    return run(settings_of(ctx), work)


def _block() -> Iterator[str]:
    """Read lines up to an empty one. Raises :class:`CommandFailed` when the input ends before."""
    for line in sys.stdin:
        if not line.strip():
            return
        yield line.rstrip("\n")
    raise _bad("EOF")


def comparison(line: str) -> rpc_pb2.Compare:
    """Parse ``TARGET("key") OPERATOR "value"``. Raises :class:`CommandFailed`."""
    match = _COMPARISON.fullmatch(line)
    if match is None:
        raise _bad(f"malformed comparison: {line}")
    target, operator, value = match[1], match[3], _unquoted(match[4])
    if operator not in _OPERATORS:
        raise _bad(f"malformed comparison: {line} (unknown operator {operator})")
    compare = rpc_pb2.Compare(key=_unquoted(match[2]), result=_OPERATORS[operator])
    try:
        match target:
            case "ver" | "version":
                compare.target, compare.version = rpc_pb2.Compare.VERSION, int(value)
            case "c" | "create":
                compare.target, compare.create_revision = rpc_pb2.Compare.CREATE, int(value)
            case "m" | "mod":
                compare.target, compare.mod_revision = rpc_pb2.Compare.MOD, int(value)
            case "val" | "value":
                compare.target, compare.value = rpc_pb2.Compare.VALUE, value
            case "lease":
                compare.target, compare.lease = rpc_pb2.Compare.LEASE, int(value, 16)
            case _:
                raise _bad(f"malformed comparison: {line} (unknown target {target})")
    except ValueError:
        raise _bad(f"invalid txn compare request: {line}") from None
    return compare


def _unquoted(text: str) -> bytes:
    """Undo the escapes of a quoted Go string."""

    def plain_form(found: re.Match[bytes]) -> bytes:
        escape = found[1]
        if escape.startswith(b"x"):
            return bytes([int(escape[1:], 16)])
        if escape.isdigit():
            return bytes([int(escape, 8) & 0xFF])
        return _LETTERS.get(escape, escape)

    return _ESCAPE.sub(plain_form, to_bytes(text))


def _request(line: str) -> rpc_pb2.RequestOp:
    """Parse a ``get``, ``put`` or ``del`` with its flags. Raises :class:`CommandFailed`."""
    try:
        name, *words = shlex.split(line)
    except ValueError as error:
        raise _bad(f"invalid txn request: {line} ({error})") from None
    command = {"get": keys.get, "put": keys.put, "del": keys.delete}.get(name)
    if command is None:
        raise _bad(f"invalid txn request: {line}")
    try:
        given = command.make_context(name, words).params
        what = cast("tuple[str, ...]", given.pop("words"))
        if name == "get":
            options = cast("keys.RangeOptions", given)
            return rpc_pb2.RequestOp(request_range=keys.range_request(what, options))
        if name == "put":
            put = keys.put_request(what, None, cast("keys.PutOptions", given))
            return rpc_pb2.RequestOp(request_put=put)
        delete = keys.delete_request(what, cast("keys.DeleteOptions", given))
        return rpc_pb2.RequestOp(request_delete_range=delete)
    except click.ClickException as error:
        raise _bad(f"invalid txn request: {line} ({error.format_message()})") from error
    except CommandFailed as error:
        raise _bad(f"invalid txn request: {line} ({error})") from error


def _show(printer: Printer, response: rpc_pb2.TxnResponse) -> None:
    if printer.as_json:
        answers = [_as_json(answer) for answer in response.responses]
        shown: dict[str, object] = {"header": header_of(response)}
        if response.succeeded:
            shown["succeeded"] = True
        printer.json(shown | ({"responses": answers} if answers else {}))
        return
    printer.line("SUCCESS" if response.succeeded else "FAILURE")
    for answer in response.responses:
        printer.line()
        match answer.WhichOneof("response"):
            case "response_put":
                printer.put(answer.response_put)
            case "response_range":
                printer.get(answer.response_range)
            case "response_delete_range":
                printer.delete(answer.response_delete_range)
            case _:
                printer.line(f"unexpected response {plain(answer)}")


def _as_json(answer: rpc_pb2.ResponseOp) -> dict[str, object]:
    """Go shows a oneof as a field of its own, named after the oneof."""
    return {"Response": plain(answer)}
