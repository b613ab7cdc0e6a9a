"""``v3electionpb.Election``: leadership held by a lease, announced by the value of its key.

A candidacy is a place in line (``waiting``). Proclaiming changes its value and never its number, so a
leader stays leader (etcd API: Lock and Election services; Election).
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from coord.rpc.async_calls import AsyncCall, async_stream, async_unary
from coord.rpc.status import RpcError, StatusCode
from coord.wire import election_pb2, rpc_pb2
from coord.wire import methods as rpcs
from coord_server import errors
from coord_server.api.context import parse, parse_streamed
from coord_server.api.waiting import (
    Lines,
    Place,
    PlaceLost,
    created_at,
    delete,
    end_of,
    plain_errors,
    prefix_of,
    put,
)
from coord_server.errors import Refused
from coord_server.mvcc.events import PUT, Event
from coord_server.mvcc.fields import decode_field

if TYPE_CHECKING:
    from coord.rpc.service import Method
    from coord_server.api.context import ApiContext
    from coord_server.mvcc.fields import KeyValue

NO_LEADER: Final = "election: no leader"
NOT_LEADER: Final = "election: not leader"
SESSION_EXPIRED: Final = "election: session is expired"
MISSING_LEADER: Final = '"leader" field must be provided'
# Changes that wait for an observer that does not read; then it goes on with the newest leader.
_OBSERVER_BACKLOG: Final = 256


def _refused(text: str) -> RpcError:
    return RpcError(StatusCode.UNKNOWN, text)


def _kv_field(pair: KeyValue) -> bytes:
    answer = election_pb2.LeaderResponse()
    answer.kv.key = pair.key
    answer.kv.create_revision = pair.create_revision
    answer.kv.mod_revision = pair.mod_revision
    answer.kv.version = pair.version
    answer.kv.value = pair.value
    answer.kv.lease = pair.lease
    return answer.SerializeToString()


class _Election:
    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._lines = Lines(context)

    async def campaign(self, call: AsyncCall, message: bytes) -> bytes:
        """Answer once the candidate leads; a call that ends before withdraws it."""
        self._context.check_head(call.head)
        request = parse(election_pb2.CampaignRequest, message)
        with plain_errors():
            lines = self._lines
            lease = request.lease or await lines.fresh_lease()
            place, entered = await lines.enter(request.name, lease, request.value)
            try:
                if not entered.succeeded:
                    await self._renew_value(place, entered, request.value)
                await lines.wait(place)
            except PlaceLost:
                raise _refused(SESSION_EXPIRED) from None
            except asyncio.CancelledError:
                await lines.leave(place)
                raise
        leader = election_pb2.LeaderKey(
            name=request.name, key=place.key, rev=place.revision, lease=lease
        )
        answer = election_pb2.CampaignResponse(header=entered.header, leader=leader)
        return answer.SerializeToString()

    async def _renew_value(self, place: Place, entered: rpc_pb2.TxnResponse, value: bytes) -> None:
        """Proclaim the value of a candidate that campaigns again; failing that, withdraw it."""
        if entered.responses[0].response_range.kvs[0].value == value:
            return
        try:
            await self._proclaim(place, value)
        except RpcError:
            await self._lines.leave(place)
            raise

    async def _proclaim(self, place: Place, value: bytes) -> rpc_pb2.TxnResponse:
        """Write a value over that of a candidacy, with the lease that the caller names."""
        answer = await self._lines.commit(
            rpc_pb2.TxnRequest(
                compare=[created_at(place.key, place.revision)],
                success=[put(place.key, value, place.lease)],
            )
        )
        if not answer.succeeded:
            raise _refused(NOT_LEADER)
        return answer

    async def proclaim(self, call: AsyncCall, message: bytes) -> bytes:
        """Set the value of a candidacy that is alive."""
        self._context.check_head(call.head)
        request = parse(election_pb2.ProclaimRequest, message)
        if not request.HasField("leader"):
            raise _refused(MISSING_LEADER)
        with plain_errors():
            place = _place_of(request.leader)
            if not place.lease:
                # As etcd does. Without any lease, a leader that is gone would lead for ever.
                place = replace(place, lease=await self._lines.fresh_lease())
            answer = await self._proclaim(place, request.value)
        return election_pb2.ProclaimResponse(header=answer.header).SerializeToString()

    async def resign(self, call: AsyncCall, message: bytes) -> bytes:
        """End a candidacy; one that has ended already is no error."""
        self._context.check_head(call.head)
        request = parse(election_pb2.ResignRequest, message)
        if not request.HasField("leader"):
            raise _refused(MISSING_LEADER)
        with plain_errors():
            place = _place_of(request.leader)
            answer = await self._lines.commit(
                rpc_pb2.TxnRequest(
                    compare=[created_at(place.key, place.revision)], success=[delete(place.key)]
                )
            )
        return election_pb2.ResignResponse(header=answer.header).SerializeToString()

    async def leader(self, call: AsyncCall, message: bytes) -> bytes:
        """Return the oldest candidacy."""
        context = self._context
        context.check_head(call.head)
        prefix = prefix_of(parse(election_pb2.LeaderRequest, message).name)
        with plain_errors():
            await self._lines.readable()
        pair = context.store.first_created(prefix, end_of(prefix))
        if pair is None:
            raise _refused(NO_LEADER)
        return context.header() + _kv_field(pair)

    async def observe(self, call: AsyncCall) -> None:
        """Report the leader and every change of its value, then the next leader, until cancelled.

        A client that does not keep up misses values, never the newest.
        """
        context = self._context
        context.check_stream_head(call.head)
        message = await call.receive()
        if message is None:
            return
        prefix = prefix_of(parse_streamed(election_pb2.LeaderRequest, message).name)
        end = end_of(prefix)
        changes = _Changes()
        stop = context.hub.listen(prefix, end, changes.add)
        try:
            reported: tuple[bytes, int] | None = None
            while True:
                with plain_errors():
                    await self._lines.readable()
                # The listener has only what is older than this read, and gets what is newer.
                changes.restart()
                pair = context.store.first_created(prefix, end)
                header = context.header()
                if pair is None:
                    created = await changes.next_put()
                    if created is None:
                        continue
                    pair = decode_field(created.field)
                    header = context.header(pair.mod_revision)
                # After a gap the same leader may still be there with the same value.
                if (pair.key, pair.mod_revision) != reported:
                    await call.send(header + _kv_field(pair))
                reported = pair.key, await self._follow(call, changes, pair)
        finally:
            stop()

    async def _follow(self, call: AsyncCall, changes: _Changes, leader: KeyValue) -> int:
        """Report new values of the leader until its key is deleted; return the last revision."""
        last = leader.mod_revision
        while True:
            event = await changes.next()
            if event is None or (event.key == leader.key and event.kind != PUT):
                return last
            if event.key == leader.key:
                last = event.mod_revision
                # An event's pair is field 2, as the pair of a LeaderResponse is.
                await call.send(self._context.header(last) + event.field)


class _Changes:
    """Events on their way from the hub to one observer; a gap is told apart from silence."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._has_gap = False
        self._arrived = asyncio.Event()

    def add(self, events: list[Event]) -> None:
        """Take what the hub has; too much becomes a gap, and so does a state that was replaced."""
        self._events.extend(events)
        if not events or len(self._events) > _OBSERVER_BACKLOG:
            self._events.clear()
            self._has_gap = True
        self._arrived.set()

    def restart(self) -> None:
        """Forget everything: the state was just read."""
        self._events.clear()
        self._has_gap = False
        self._arrived.clear()

    async def next(self) -> Event | None:
        """Return the next event, or None if there is a gap before it."""
        while not self._events and not self._has_gap:
            self._arrived.clear()
            await self._arrived.wait()
        return None if self._has_gap else self._events.popleft()

    async def next_put(self) -> Event | None:
        """Return the next event that is no delete, or None if there is a gap before it."""
        while True:
            event = await self.next()
            if event is None or event.kind == PUT:
                return event


def _place_of(leader: election_pb2.LeaderKey) -> Place:
    if not leader.key:
        raise Refused(errors.EMPTY_KEY)
    return Place(
        prefix=prefix_of(leader.name), key=leader.key, lease=leader.lease, revision=leader.rev
    )


def methods(context: ApiContext) -> list[Method]:
    """Return the methods of the service."""
    service = _Election(context)
    return [
        async_unary(rpcs.ELECTION_CAMPAIGN.path, service.campaign),
        async_unary(rpcs.ELECTION_PROCLAIM.path, service.proclaim),
        async_unary(rpcs.ELECTION_LEADER.path, service.leader),
        async_stream(rpcs.ELECTION_OBSERVE.path, service.observe),
        async_unary(rpcs.ELECTION_RESIGN.path, service.resign),
    ]
