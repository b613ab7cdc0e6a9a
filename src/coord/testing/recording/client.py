"""The calls of a client, each with its request and its outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.kv import SortBy, range_request
from coord.store.operations import Op, txn_request
from coord.store.txn import TxnResult
from coord.store.values import DeleteResult, PutResult, RangeResult
from coord.testing.recording.outcome import record_call
from coord.testing.recording.tenure import RecordedElection, RecordedMutex
from coord.testing.recording.watch import RecordedWatch
from coord.wire import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Collection

    from coord.client import Client
    from coord.session import Session
    from coord.store.comparing import Compare
    from coord.store.values import KeyValue, LeaseGrant, LeaseInfo, WatchFilter
    from coord.testing.history import Recorder


class RecordedClient:
    """One client program of a history: the calls of ``client``, recorded under ``name``.

    One call at a time, as the history's format demands; make one of these per task. The client itself may be
    shared. It stays the caller's to close.
    """

    def __init__(self, client: Client, recorder: Recorder, name: str) -> None:
        self.client = client
        self.recorder = recorder
        self.name = name

    # Keys and values.

    async def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """As ``Client.get``."""
        # Through a range read, whose answer has the store's revision.
        result = await self.get_range(
            to_key(key), b"", revision=revision, serializable=serializable, timeout=timeout
        )
        return result.items[0] if result.items else None

    async def get_range(
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        sort_by: SortBy = SortBy.KEY,
        descending: bool = False,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> RangeResult:
        """As ``Client.get_range``."""
        first, last = to_key(start), to_bytes(end, "end")
        request = range_request(
            first,
            last,
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            descending=descending,
            serializable=serializable,
        )

        async def send() -> RangeResult:
            return await self.client.get_range(
                first,
                last,
                limit=limit,
                revision=revision,
                sort_by=sort_by,
                descending=descending,
                serializable=serializable,
                timeout=timeout,
            )

        return await record_call(
            self.recorder,
            self.name,
            "Range",
            request,
            send,
            answer=lambda result: (_range_response(result), False),
            writes=False,
        )

    async def get_prefix(
        self,
        prefix: str | bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> RangeResult:
        """As ``Client.get_prefix``."""
        first, last = prefix_range(prefix)
        return await self.get_range(
            first, last, limit=limit, revision=revision, serializable=serializable, timeout=timeout
        )

    async def put(
        self,
        key: str | bytes,
        value: str | bytes,
        *,
        lease: int | None = None,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """As ``Client.put``."""
        request = rpc_pb2.PutRequest(
            key=to_key(key), value=to_bytes(value, "value"), lease=lease or 0, prev_kv=prev_kv
        )
        return await record_call(
            self.recorder,
            self.name,
            "Put",
            request,
            lambda: self.client.put(key, value, lease=lease, prev_kv=prev_kv, timeout=timeout),
            answer=lambda result: (_put_response(result), True),
        )

    async def delete(
        self, key: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """As ``Client.delete``."""
        return await self.delete_range(to_key(key), b"", prev_kv=prev_kv, timeout=timeout)

    async def delete_range(
        self,
        start: str | bytes,
        end: str | bytes,
        *,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """As ``Client.delete_range``."""
        first, last = to_key(start), to_bytes(end, "end")
        request = rpc_pb2.DeleteRangeRequest(key=first, range_end=last, prev_kv=prev_kv)
        return await record_call(
            self.recorder,
            self.name,
            "DeleteRange",
            request,
            lambda: self.client.delete_range(first, last, prev_kv=prev_kv, timeout=timeout),
            answer=lambda result: (_delete_response(result), result.deleted > 0),
        )

    async def delete_prefix(
        self, prefix: str | bytes, *, prev_kv: bool = False, timeout: float | None = None
    ) -> DeleteResult:
        """As ``Client.delete_prefix``."""
        first, last = prefix_range(prefix)
        return await self.delete_range(first, last, prev_kv=prev_kv, timeout=timeout)

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> int:
        """As ``Client.compact``."""
        return await record_call(
            self.recorder,
            self.name,
            "Compact",
            rpc_pb2.CompactionRequest(revision=revision, physical=physical),
            lambda: self.client.compact(revision, physical=physical, timeout=timeout),
            answer=lambda now: (rpc_pb2.CompactionResponse(header=_header(now)), False),
        )

    def txn(self) -> RecordedTxn:
        """As ``Client.txn``."""
        return RecordedTxn(self)

    # Leases.

    async def lease_grant(
        self, ttl: int, *, lease_id: int | None = None, timeout: float | None = None
    ) -> LeaseGrant:
        """As ``Client.lease_grant``. Without ``lease_id`` a lost answer leaves a lease of unknown id."""

        def response(granted: LeaseGrant) -> tuple[rpc_pb2.LeaseGrantResponse, bool]:
            header = _header(granted.revision)
            made = rpc_pb2.LeaseGrantResponse(header=header, ID=granted.lease_id, TTL=granted.ttl)
            return made, False

        return await record_call(
            self.recorder,
            self.name,
            "LeaseGrant",
            rpc_pb2.LeaseGrantRequest(TTL=ttl, ID=lease_id or 0),
            lambda: self.client.lease_grant(ttl, lease_id=lease_id, timeout=timeout),
            answer=response,
        )

    async def lease_revoke(self, lease_id: int, *, timeout: float | None = None) -> int:
        """As ``Client.lease_revoke``. Whether it took keys with it is not in the answer: the judge finds out."""
        return await record_call(
            self.recorder,
            self.name,
            "LeaseRevoke",
            rpc_pb2.LeaseRevokeRequest(ID=lease_id),
            lambda: self.client.lease_revoke(lease_id, timeout=timeout),
            answer=lambda now: (rpc_pb2.LeaseRevokeResponse(header=_header(now)), False),
        )

    async def lease_keep_alive_once(self, lease_id: int, *, timeout: float | None = None) -> int:
        """As ``Client.lease_keep_alive_once``."""
        return await record_call(
            self.recorder,
            self.name,
            "LeaseKeepAlive",
            rpc_pb2.LeaseKeepAliveRequest(ID=lease_id),
            lambda: self.client.lease_keep_alive_once(lease_id, timeout=timeout),
            answer=lambda ttl: (rpc_pb2.LeaseKeepAliveResponse(ID=lease_id, TTL=ttl), False),
        )

    async def lease_time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseInfo:
        """As ``Client.lease_time_to_live``."""

        def response(info: LeaseInfo) -> tuple[rpc_pb2.LeaseTimeToLiveResponse, bool]:
            left = -1 if info.remaining is None else int(info.remaining)
            made = rpc_pb2.LeaseTimeToLiveResponse(
                ID=lease_id, TTL=left, grantedTTL=info.granted, keys=info.keys
            )
            return made, False

        return await record_call(
            self.recorder,
            self.name,
            "LeaseTimeToLive",
            rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=keys),
            lambda: self.client.lease_time_to_live(lease_id, keys=keys, timeout=timeout),
            answer=response,
            writes=False,
        )

    # Watches and recipes.

    def watch(
        self,
        key: str | bytes,
        *,
        end: str | bytes | None = None,
        prefix: bool = False,
        start_revision: int | None = None,
        prev_kv: bool = False,
        filters: Collection[WatchFilter] = (),
    ) -> RecordedWatch:
        """As ``Client.watch``, to be entered with ``async with``."""
        if prefix:
            first, last = prefix_range(key)
        else:
            first, last = to_key(key), b"" if end is None else to_bytes(end, "end")
        return RecordedWatch(
            self.client,
            self.recorder,
            self.recorder.new_watcher(self.name),
            first,
            last,
            start_revision=start_revision,
            prev_kv=prev_kv,
            filters=filters,
        )

    def witness(self) -> RecordedWatch:
        """Watch everything from the store's beginning: what judges hold all the rest against.

        Open it before anything is compacted: afterwards the beginning is gone (:class:`coord.Compacted`).
        """
        return self.watch(b"", prefix=True, start_revision=1, prev_kv=True)

    def mutex(self, name: str | bytes, *, session: Session | None = None) -> RecordedMutex:
        """As ``Client.mutex``, without reentrancy: a judge takes each grant for a new one."""
        return RecordedMutex(
            self.client.mutex(name, session=session), self.recorder, self.name, session
        )

    def election(self, name: str | bytes, *, session: Session | None = None) -> RecordedElection:
        """As ``Client.election``."""
        return RecordedElection(
            self.client.election(name, session=session), self.recorder, self.name
        )


class RecordedTxn:
    """As ``coord.Txn``."""

    def __init__(self, owner: RecordedClient) -> None:
        self._owner = owner
        self._txn = owner.client.txn()
        self._when: tuple[Compare, ...] = ()
        self._then: tuple[Op, ...] = ()
        self._otherwise: tuple[Op, ...] = ()

    def when(self, *comparisons: Compare) -> Self:
        """Set the comparisons that all must hold."""
        self._txn.when(*comparisons)
        self._when = comparisons
        return self

    def then(self, *ops: Op) -> Self:
        """Set what runs when the comparisons hold."""
        self._txn.then(*ops)
        self._then = ops
        return self

    def otherwise(self, *ops: Op) -> Self:
        """Set what runs when they do not."""
        self._txn.otherwise(*ops)
        self._otherwise = ops
        return self

    async def commit(self, *, timeout: float | None = None) -> TxnResult:
        """Send it and return what happened."""
        request = txn_request(self._when, self._then, self._otherwise)
        return await record_call(
            self._owner.recorder,
            self._owner.name,
            "Txn",
            request,
            lambda: self._txn.commit(timeout=timeout),
            answer=lambda result: (_txn_response(result), _changed(result)),
            writes=any(not o.is_read for o in self._then + self._otherwise),
        )


# Results as the messages that they came from, as far as the client passes them on.


def _header(revision: int) -> rpc_pb2.ResponseHeader:
    return rpc_pb2.ResponseHeader(revision=revision)


def _pair(kv: KeyValue) -> kv_pb2.KeyValue:
    return kv_pb2.KeyValue(
        key=kv.key,
        value=kv.value,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        version=kv.version,
        lease=kv.lease,
    )


def _range_response(result: RangeResult) -> rpc_pb2.RangeResponse:
    return rpc_pb2.RangeResponse(
        header=_header(result.revision),
        kvs=[_pair(kv) for kv in result.items],
        more=result.more,
        count=result.count,
    )


def _put_response(result: PutResult) -> rpc_pb2.PutResponse:
    made = rpc_pb2.PutResponse(header=_header(result.revision))
    if result.previous is not None:
        made.prev_kv.CopyFrom(_pair(result.previous))
    return made


def _delete_response(result: DeleteResult) -> rpc_pb2.DeleteRangeResponse:
    return rpc_pb2.DeleteRangeResponse(
        header=_header(result.revision),
        deleted=result.deleted,
        prev_kvs=[_pair(kv) for kv in result.previous],
    )


def _txn_response(result: TxnResult) -> rpc_pb2.TxnResponse:
    made = rpc_pb2.TxnResponse(header=_header(result.revision), succeeded=result.succeeded)
    for each in result.responses:
        part = made.responses.add()
        match each:
            case RangeResult():
                part.response_range.CopyFrom(_range_response(each))
            case PutResult():
                part.response_put.CopyFrom(_put_response(each))
            case DeleteResult():
                part.response_delete_range.CopyFrom(_delete_response(each))
            case TxnResult():
                part.response_txn.CopyFrom(_txn_response(each))
    return made


def _changed(result: TxnResult) -> bool:
    for each in result.responses:
        match each:
            case RangeResult():
                continue
            case PutResult():
                return True
            case DeleteResult():
                if each.deleted:
                    return True
            case TxnResult():
                if _changed(each):
                    return True
    return False
