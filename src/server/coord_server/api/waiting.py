"""A place in line, as the Lock and Election services share it.

Whoever wants a lock or a leadership writes a key ``NAME/LEASE`` and owns the thing once no older key
is under ``NAME/``. Keys and order are those of the clients' own recipes, so both kinds of participants
stand in one line (etcd API: Mutex, Election; "Waiting primitives"). Inside the server a waiter hears
of deletions from the watch hub and looks at the state itself: it neither polls nor opens a stream.

It wakes when the key before it goes, and also when its own key goes: a place whose lease has ended is
lost, and is never told to be the owner.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coord.rpc.status import RpcError, StatusCode
from coord.runtime import finish
from coord.wire import rpc_pb2
from coord_server import errors
from coord_server.api.lease import choose_lease_id
from coord_server.api.space import GRANT_COST, PUT_COST
from coord_server.errors import Refused
from coord_server.mvcc.events import DELETE
from coord_server.ops import OpKind

if TYPE_CHECKING:
    from collections.abc import Generator

    from coord_server.api.context import ApiContext
    from coord_server.errors import ErrorSpec
    from coord_server.mvcc.events import Event

# The lease of a caller that names none. Nobody renews it (etcd API: Lock and Election services).
FRESH_LEASE_TTL_S: Final = 60


class PlaceLost(Exception):
    """The key that holds the place was deleted: its lease ended, or somebody removed it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """One participant: its key, and the create revision that is its number in line."""

    prefix: bytes
    key: bytes
    lease: int
    revision: int


@contextmanager
def plain_errors() -> Generator[None, None, None]:
    """Turn every failure into UNKNOWN with the same text, which is all these services ever answer."""
    try:
        yield
    except RpcError as error:
        raise RpcError(StatusCode.UNKNOWN, error.message) from error
    except TimeoutError as error:
        raise RpcError(StatusCode.UNKNOWN, errors.TIMEOUT.message) from error


def prefix_of(name: bytes) -> bytes:
    """Return what stands before every key of a lock or election."""
    return name + b"/"


def end_of(prefix: bytes) -> bytes:
    """Return the end of the range of a prefix: ``0`` is the byte after ``/``."""
    return prefix[:-1] + b"0"


def created_at(key: bytes, revision: int) -> rpc_pb2.Compare:
    """Return the guard "this key was created at this revision"; 0 for "does not exist"."""
    return rpc_pb2.Compare(
        key=key,
        target=rpc_pb2.Compare.CREATE,
        result=rpc_pb2.Compare.EQUAL,
        create_revision=revision,
    )


def put(key: bytes, value: bytes, lease: int) -> rpc_pb2.RequestOp:
    """Return a Put as an operation of a transaction."""
    return rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease))


def delete(key: bytes) -> rpc_pb2.RequestOp:
    """Return a delete of one key as an operation of a transaction."""
    return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))


def get(key: bytes) -> rpc_pb2.RequestOp:
    """Return a read of one key as an operation of a transaction."""
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))


class Lines:
    """Entering, waiting and leaving, for one server."""

    def __init__(self, context: ApiContext) -> None:
        self._context = context
        self._within_s = context.config.request_timeout_s

    async def readable(self) -> None:
        """Wait until the local state is as new as anything acknowledged before this call."""
        replica = self._context.replica
        if replica.read_ready():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def run() -> None:
            if not future.done():
                future.set_result(None)

        def fail(spec: ErrorSpec) -> None:
            if not future.done():
                future.set_exception(Refused(spec))

        replica.when_readable(run, fail)
        await future

    async def commit(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """Carry out a transaction. Raises RpcError; a cancelled call may still take effect."""
        context = self._context
        cost = sum(
            PUT_COST + len(op.request_put.key) + len(op.request_put.value)
            for op in request.success
            if op.HasField("request_put")
        )
        if cost:
            context.room.check(cost)
        payload = request.SerializeToString()
        context.check_size(payload)
        answer = await context.replica.submit(OpKind.TXN, payload)
        return rpc_pb2.TxnResponse.FromString(answer)

    async def fresh_lease(self) -> int:
        """Grant a lease that nobody will renew; return its id."""
        context = self._context
        context.room.check(GRANT_COST)
        lease_id = choose_lease_id(context)
        request = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=FRESH_LEASE_TTL_S)
        await context.replica.submit(OpKind.LEASE_GRANT, request.SerializeToString())
        return lease_id

    async def enter(
        self, name: bytes, lease: int, value: bytes
    ) -> tuple[Place, rpc_pb2.TxnResponse]:
        """Take a place, or find the one that this lease has already.

        Cancelled, it leaves no place that it made itself.
        """
        prefix = prefix_of(name)
        key = prefix + format(lease, "x").encode()
        request = rpc_pb2.TxnRequest(
            compare=[created_at(key, 0)], success=[put(key, value, lease)], failure=[get(key)]
        )
        answers: list[rpc_pb2.TxnResponse] = []

        async def run() -> None:
            answers.append(await self.commit(request))

        try:
            await finish(run(), within=self._within_s)
        except asyncio.CancelledError:
            if answers and answers[0].succeeded:
                made = answers[0].header.revision
                await self.leave(Place(prefix=prefix, key=key, lease=lease, revision=made))
            raise
        answer = answers[0]
        if answer.succeeded:
            revision = answer.header.revision
        else:
            revision = answer.responses[0].response_range.kvs[0].create_revision
        return Place(prefix=prefix, key=key, lease=lease, revision=revision), answer

    async def wait(self, place: Place) -> bool:
        """Wait until nobody is ahead; return whether that took any waiting.

        Raises PlaceLost as soon as the place's key is gone. The caller is the owner only if this
        returns: then its key was there when the last one ahead of it was not.
        """
        store = self._context.store
        waited = False
        while True:
            own = store.get(place.key)
            if own is None or own.create_revision != place.revision:
                raise PlaceLost
            ahead = store.last_created(
                place.prefix, end_of(place.prefix), max_create=place.revision - 1
            )
            if ahead is None:
                return waited
            waited = True
            await self._first_deleted(ahead.key, place.key)
            await self.readable()

    def was_behind(self, place: Place, revision: int) -> bool:
        """Return whether anybody was ahead of the place at a revision not long ago.

        So that an owner is never told a revision at which it was none, if the one ahead left
        before anybody looked.
        """
        store = self._context.store
        if store.revision == revision:
            return False
        request = rpc_pb2.RangeRequest(
            key=place.prefix,
            range_end=end_of(place.prefix),
            revision=revision,
            max_create_revision=place.revision - 1,
            limit=1,
            keys_only=True,
        )
        try:
            body = store.range_body(request)
        except Refused:
            return True  # compacted by now: nobody knows
        return bool(rpc_pb2.RangeResponse.FromString(body).kvs)

    async def _first_deleted(self, *keys: bytes) -> None:
        """Wait for the next deletion of one of these keys, which exist now, or until they may be gone."""
        deleted: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def seen(events: list[Event]) -> None:
            # No events: the whole state was replaced.
            gone = not events or any(event.kind == DELETE for event in events)
            if gone and not deleted.done():
                deleted.set_result(None)

        stops = [self._context.hub.listen(key, b"", seen) for key in keys]
        try:
            await deleted
        finally:
            for stop in stops:
                stop()

    async def leave(self, place: Place) -> None:
        """Give the place up, although the caller is cancelled; not if the key is another's by now.

        A clean-up that fails is passed over: the key goes with its lease.
        """
        request = rpc_pb2.TxnRequest(
            compare=[created_at(place.key, place.revision)], success=[delete(place.key)]
        )
        with suppress(RpcError, TimeoutError):
            await finish(self.commit(request), within=self._within_s)
