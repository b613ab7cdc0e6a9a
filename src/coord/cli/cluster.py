"""``status``, ``endpoint status``, ``endpoint health`` and ``member list``."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from coord.cli.connection import LoginFailed, Store, begin, connected, each_endpoint, run
from coord.cli.options import Command, CommandFailed, Group, settings_of
from coord.cli.output import Printer, plain
from coord.errors import CoordError, PermissionDenied, RequestRefused
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from coord.cli.options import Settings

_KILO = 1000
_HEALTH_KEY = b"health"  # what etcdctl reads, too


@click.command(cls=Command)
@click.pass_context
def status(ctx: click.Context) -> int:
    """Show endpoint, id, version, size, leader, learner, term, index, applied index and errors.

    One line for each endpoint.
    """
    return begin(settings_of(ctx), _status)


@click.group(cls=Group)
def endpoint() -> None:
    """State and health of each endpoint."""


endpoint.add_command(status)


async def _status(settings: Settings) -> int:
    failed = 0
    shown: list[object] = []
    printer = Printer(as_json=settings.write_out == "json", as_hex=settings.hex)
    for name in each_endpoint(settings):
        try:
            async with connected(settings, name) as store:
                response = await store.call(methods.MAINTENANCE_STATUS, rpc_pb2.StatusRequest())
        except CoordError as error:
            print(f"Failed to get the status of endpoint {name} ({error})", file=sys.stderr)  # noqa: T201
            failed = 1
            continue
        if printer.as_json:
            shown.append({"Endpoint": name, "Status": plain(response)})
        else:
            printer.line(", ".join(_row(name, response)))
    if printer.as_json:
        printer.json(shown)
    return failed


def _row(name: str, response: rpc_pb2.StatusResponse) -> list[str]:
    return [
        name,
        f"{response.header.member_id:x}",
        response.version,
        readable_size(response.dbSize),
        _flag(holds=response.leader == response.header.member_id),
        _flag(holds=response.isLearner),
        str(response.raftTerm),
        str(response.raftIndex),
        str(response.raftAppliedIndex),
        ", ".join(response.errors),
    ]


def _flag(*, holds: bool) -> str:
    return "true" if holds else "false"


def readable_size(count: int) -> str:
    """Return a number of bytes as etcdctl shows it: two digits that count, units of 1000."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if size < _KILO or unit == "PB":
            digits = 0 if unit == "B" or round(size, 1) >= 10 else 1  # noqa: PLR2004 - two digits
            return f"{size:.{digits}f} {unit}"
        size /= _KILO
    return f"{count} B"


@endpoint.command()
@click.pass_context
def health(ctx: click.Context) -> int:
    """Ask each endpoint whether it can read at the present revision."""
    return begin(settings_of(ctx), _health)


async def _health(settings: Settings) -> int:
    printer = Printer(as_json=settings.write_out == "json", as_hex=settings.hex)
    shown: list[object] = []
    failures = 0
    for name in each_endpoint(settings):
        took, failure = 0.0, ""
        try:
            async with connected(settings, name) as store:
                began = store.core.env.clock.mono()
                # Denied is healthy: the answer took consensus.
                with contextlib.suppress(PermissionDenied):
                    await store.call(methods.KV_RANGE, rpc_pb2.RangeRequest(key=_HEALTH_KEY))
                took = store.core.env.clock.mono() - began
        except (CoordError, LoginFailed) as error:
            failure = error.message if isinstance(error, RequestRefused) else str(error)
        failures += bool(failure)
        text = f"{took * 1000:.6f}ms"
        if printer.as_json:
            entry = {"endpoint": name, "health": not failure, "took": text}
            shown.append({**entry, "error": failure} if failure else entry)
        elif failure:
            print(f"{name} is unhealthy: failed to commit proposal: {failure}", file=sys.stderr)  # noqa: T201
        else:
            printer.line(f"{name} is healthy: successfully committed proposal: took = {text}")
    if printer.as_json:
        printer.json(shown)
    if failures:
        raise CommandFailed("unhealthy cluster")
    return 0


@click.group(cls=Group)
def member() -> None:
    """Show the members of the cluster."""


@member.command("list")
@click.pass_context
def list_(ctx: click.Context) -> int:
    """Show id, state, name, peer addresses, client addresses and whether it is a learner, a line each."""

    async def work(store: Store) -> None:
        request = rpc_pb2.MemberListRequest(linearizable=True)
        response = await store.call(methods.CLUSTER_MEMBER_LIST, request)
        if store.printer.as_json:
            store.printer.json(response)
            return
        for known in response.members:
            columns = [
                f"{known.ID:x}",
                "started" if known.name else "unstarted",
                known.name,
                ",".join(known.peerURLs),
                ",".join(known.clientURLs),
                _flag(holds=known.isLearner),
            ]
            store.printer.line(", ".join(columns))

    return run(settings_of(ctx), work)
