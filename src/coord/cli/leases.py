"""``lease grant``, ``revoke``, ``timetolive``, ``list`` and ``keep-alive``."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import click

from coord.cli.connection import Store, run
from coord.cli.options import (
    EXIT_BAD_CONNECTION,
    BadArguments,
    CommandFailed,
    Group,
    parse_lease,
    settings_of,
)
from coord.cli.output import encoded, header_of
from coord.errors import (
    CoordError,
    CoordTimeout,
    LeaseNotFound,
    RequestRefused,
    Unavailable,
    from_status,
)
from coord.rpc.status import RpcError, StatusCode
from coord.store.caller import Repeat
from coord.wire import methods, rpc_pb2

if TYPE_CHECKING:
    from google.protobuf.message import Message

_RETRY_S = 0.5


@click.group(cls=Group)
def lease() -> None:
    """Grant, renew, show and revoke leases. Their ids are written in hex."""


def _shown(lease_id: int) -> str:
    return f"{lease_id & (1 << 64) - 1:016x}"


def _with_header(response: Message, **fields: object) -> dict[str, object]:
    """Return the header's fields beside the response's own: the form of etcd's Go client."""
    return {**header_of(response), **fields}


@lease.command()
@click.argument("ttl", type=int)
@click.pass_context
def grant(ctx: click.Context, ttl: int) -> int:
    """Grant a lease of TTL seconds."""
    request = rpc_pb2.LeaseGrantRequest(TTL=ttl)

    async def work(store: Store) -> None:
        # The server chooses the id, as for etcdctl; so an unknown outcome must not be repeated.
        response = await store.call(methods.LEASE_GRANT, request, repeat=Repeat.ONCE)
        if store.printer.as_json:
            shown = _with_header(response, ID=response.ID, TTL=response.TTL, Error=response.error)
            store.printer.json(shown)
        else:
            store.printer.line(f"lease {_shown(response.ID)} granted with TTL({response.TTL}s)")

    return run(settings_of(ctx), work)


@lease.command()
@click.argument("lease_id", metavar="ID")
@click.pass_context
def revoke(ctx: click.Context, lease_id: str) -> int:
    """End a lease, and delete the keys that are attached to it."""
    request = rpc_pb2.LeaseRevokeRequest(ID=parse_lease(lease_id))

    async def work(store: Store) -> None:
        try:
            response = await store.call(methods.LEASE_REVOKE, request, repeat=Repeat.ONCE)
        except RequestRefused as error:
            raise CommandFailed(f"failed to revoke lease ({error.message})") from error
        if store.printer.as_json:
            store.printer.json(response)
        else:
            store.printer.line(f"lease {_shown(request.ID)} revoked")

    return run(settings_of(ctx), work)


@lease.command()
@click.argument("lease_id", metavar="ID")
@click.option("--keys", is_flag=True, help="Also show the keys that are attached to it.")
@click.pass_context
def timetolive(ctx: click.Context, lease_id: str, *, keys: bool) -> int:
    """Show how long a lease still has."""
    request = rpc_pb2.LeaseTimeToLiveRequest(ID=parse_lease(lease_id), keys=keys)

    async def work(store: Store) -> None:
        response = await store.call(methods.LEASE_TIME_TO_LIVE, request)
        if store.printer.as_json:
            # Go tells a list that was not asked for from an empty one.
            attached = [encoded(key) for key in response.keys] or None
            fields = {"id": response.ID, "ttl": response.TTL, "granted-ttl": response.grantedTTL}
            store.printer.json(_with_header(response, **fields, keys=attached))
        elif response.TTL == -1 and response.grantedTTL == 0:
            store.printer.line(f"lease {_shown(response.ID)} already expired")
        else:
            text = f"lease {_shown(response.ID)} granted with TTL({response.grantedTTL}s), "
            line = f"{text}remaining({response.TTL}s)".encode()
            if keys:
                line += b", attached keys([" + b" ".join(response.keys) + b"])"
            store.printer.line(line)

    return run(settings_of(ctx), work)


@lease.command("list")
@click.pass_context
def list_(ctx: click.Context) -> int:
    """Show the ids of all leases."""

    async def work(store: Store) -> None:
        response = await store.call(methods.LEASE_LEASES, rpc_pb2.LeaseLeasesRequest())
        if store.printer.as_json:
            leases = [{"id": status.ID} for status in response.leases]
            store.printer.json(_with_header(response, leases=leases))
            return
        store.printer.line(f"found {len(response.leases)} leases")
        for status in response.leases:
            store.printer.line(_shown(status.ID))

    return run(settings_of(ctx), work)


@lease.command("keep-alive")
@click.argument("lease_id", metavar="ID")
@click.option("--once", is_flag=True, help="Renew it once, and end.")
@click.pass_context
def keep_alive(ctx: click.Context, lease_id: str, *, once: bool) -> int:
    """Renew a lease for as long as this runs, and say so each time."""
    wanted = parse_lease(lease_id)
    if wanted == 0:
        raise BadArguments("lease 0 does not exist")

    async def work(store: Store) -> None:
        if once:
            try:
                response = await _renew(store, wanted)
            except CoordError as error:
                text = error.message if isinstance(error, RequestRefused) else str(error)
                raise CommandFailed(text, EXIT_BAD_CONNECTION) from error
            _show_renewal(store, response)
            return
        with contextlib.suppress(LeaseNotFound):
            await _keep(store, wanted)
        store.printer.line(f"lease {_shown(wanted)} expired or revoked.")

    return run(settings_of(ctx), work)


async def _keep(store: Store, lease_id: int) -> None:
    """Renew three times per TTL; return when no renewal has succeeded for a whole one."""
    clock = store.core.env.clock
    deadline: float | None = None
    while deadline is None or clock.mono() < deadline:
        sent_at = clock.mono()
        try:
            response = await _renew(store, lease_id)
        except (Unavailable, CoordTimeout):
            if deadline is None:
                raise
            await asyncio.sleep(_RETRY_S)
            continue
        _show_renewal(store, response)
        deadline = sent_at + response.TTL
        await asyncio.sleep(response.TTL / 3)


async def _renew(store: Store, lease_id: int) -> rpc_pb2.LeaseKeepAliveResponse:
    """Renew once. Raises :class:`LeaseNotFound`, :class:`Unavailable`, :class:`CoordTimeout`."""
    limit = store.settings.command_timeout
    try:
        async with asyncio.timeout(limit):
            stream = await store.core.transport.open_stream(
                methods.LEASE_KEEP_ALIVE.path, timeout=limit
            )
            try:
                stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease_id).SerializeToString())
                message = await stream.receive()
            finally:
                stream.cancel()
    except TimeoutError:
        raise CoordTimeout("LeaseKeepAlive", limit) from None
    except RpcError as error:
        raise from_status(error, operation="LeaseKeepAlive", writes=False, timeout=limit) from error
    response = rpc_pb2.LeaseKeepAliveResponse.FromString(message or b"")
    if response.TTL <= 0:
        raise LeaseNotFound(StatusCode.NOT_FOUND, "etcdserver: requested lease not found")
    return response


def _show_renewal(store: Store, response: rpc_pb2.LeaseKeepAliveResponse) -> None:
    if store.printer.as_json:
        store.printer.json(_with_header(response, ID=response.ID, TTL=response.TTL))
    else:
        store.printer.line(f"lease {_shown(response.ID)} keepalived with TTL({response.TTL})")
