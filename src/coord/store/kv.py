"""Single operations on keys (etcd API: Range, Put, DeleteRange, Compact)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from coord.errors import AmbiguousResult, InvalidArgument
from coord.store.caller import Caller, Repeat, decode
from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.keyspace import EVERYTHING, Keyspace
from coord.store.values import DeleteResult, KeyValue, put_result_of, range_result_of
from coord.wire import fast, methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from coord.store.values import PutResult, RangeResult


class SortBy(Enum):
    """What a range is ordered by."""

    KEY = rpc_pb2.RangeRequest.KEY
    VERSION = rpc_pb2.RangeRequest.VERSION
    CREATE_REVISION = rpc_pb2.RangeRequest.CREATE
    MOD_REVISION = rpc_pb2.RangeRequest.MOD
    VALUE = rpc_pb2.RangeRequest.VALUE


_ASCEND, _DESCEND = rpc_pb2.RangeRequest.ASCEND, rpc_pb2.RangeRequest.DESCEND


def sorting(
    sort_by: SortBy, *, descending: bool
) -> tuple[rpc_pb2.RangeRequest.SortOrder.ValueType, rpc_pb2.RangeRequest.SortTarget.ValueType]:
    """Return order and target as the API's numbers; without an order, which is by key, for the usual one."""
    if descending:
        return _DESCEND, sort_by.value
    return (rpc_pb2.RangeRequest.NONE if sort_by is SortBy.KEY else _ASCEND), sort_by.value


def check_range(limit: int, revision: int | None) -> None:
    """Raise :class:`InvalidArgument` for a negative limit or revision, and for revision 0."""
    if limit < 0:
        raise InvalidArgument(f"limit must be 0 (no limit) or more, not {limit}")
    if revision is not None and revision <= 0:
        raise InvalidArgument(f"revision must be None (current) or at least 1, not {revision}")


def range_request(  # noqa: PLR0913 - the fields of the message
    start: bytes,
    end: bytes,
    *,
    limit: int = 0,
    revision: int | None = None,
    sort_by: SortBy = SortBy.KEY,
    descending: bool = False,
    keys_only: bool = False,
    count_only: bool = False,
    serializable: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> rpc_pb2.RangeRequest:
    """Build a RangeRequest. Raises as :func:`check_range`."""
    check_range(limit, revision)
    request = rpc_pb2.RangeRequest(
        key=start,
        range_end=end,
        limit=limit,
        revision=revision or 0,
        serializable=serializable,
        keys_only=keys_only,
        count_only=count_only,
    )
    if sort_by is not SortBy.KEY or descending:
        request.sort_order, request.sort_target = sorting(sort_by, descending=descending)
    # Seldom given, and each costs something even as a default.
    if min_mod_revision or max_mod_revision or min_create_revision or max_create_revision:
        request.min_mod_revision = min_mod_revision
        request.max_mod_revision = max_mod_revision
        request.min_create_revision = min_create_revision
        request.max_create_revision = max_create_revision
    return request


def range_result(response: rpc_pb2.RangeResponse, skip: int = 0) -> RangeResult:
    """Convert a RangeResponse; ``skip`` as for :meth:`KeyValue.from_wire`."""
    # A slice of a repeated field is a list, made in one go; an iteration over the field itself asks it for every index.
    return range_result_of(
        tuple([KeyValue.from_wire(kv, skip) for kv in response.kvs[:]]),
        response.count,
        response.header.revision,
        more=response.more,
    )


def put_request(
    key: str | bytes,
    value: str | bytes,
    *,
    lease: int = 0,
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
) -> rpc_pb2.PutRequest:
    """Build a PutRequest. Raises :class:`InvalidArgument` for something that is both given and to be ignored."""
    request = rpc_pb2.PutRequest(key=to_key(key), value=to_bytes(value, "value"))
    if ignore_value:
        if request.value:
            raise InvalidArgument(
                "ignore_value=True keeps the value that is there: give an empty one"
            )
        request.ignore_value = True
    if ignore_lease:
        if lease:
            raise InvalidArgument("ignore_lease=True keeps the lease that is there: give none")
        request.ignore_lease = True
    # Seldom given, and each costs something even as a default.
    if lease:
        request.lease = lease
    if prev_kv:
        request.prev_kv = True
    return request


def put_result(response: rpc_pb2.PutResponse, skip: int = 0) -> PutResult:
    """Convert a PutResponse; ``skip`` as for :meth:`KeyValue.from_wire`."""
    previous = KeyValue.from_wire(response.prev_kv, skip) if response.HasField("prev_kv") else None
    return put_result_of(response.header.revision, previous)


def delete_result(response: rpc_pb2.DeleteRangeResponse, skip: int = 0) -> DeleteResult:
    """Convert a DeleteRangeResponse; ``skip`` as for :meth:`KeyValue.from_wire`."""
    return DeleteResult(
        revision=response.header.revision,
        deleted=response.deleted,
        previous=tuple([KeyValue.from_wire(kv, skip) for kv in response.prev_kvs[:]]),
    )


class KV:
    """Reads and writes of keys and ranges."""

    def __init__(self, caller: Caller, keyspace: Keyspace = EVERYTHING) -> None:
        self._caller = caller
        self._keyspace = keyspace

    async def get(
        self,
        key: str | bytes,
        *,
        revision: int | None = None,
        serializable: bool = False,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Return the pair at ``key``, None if there is none."""
        raw = to_key(key)
        if revision is None:
            answer = await self._caller.call_raw(
                methods.KV_RANGE.path,
                fast.encode_point_range(self._keyspace.prefix + raw, serializable),
                repeat=Repeat.READ,
                timeout=timeout,
            )
            response = decode(rpc_pb2.RangeResponse, answer)
        else:
            request = range_request(
                self._keyspace.prefix + raw, b"", revision=revision, serializable=serializable
            )
            response = await self._caller.call(
                methods.KV_RANGE, request, repeat=Repeat.READ, timeout=timeout
            )
        return KeyValue.from_wire(response.kvs[0], self._keyspace.size) if response.kvs else None

    async def range(
        self, request: rpc_pb2.RangeRequest, *, timeout: float | None = None
    ) -> RangeResult:
        """Run a range read. ``request`` is used up: it may be changed on the way."""
        if self._keyspace.size:
            self._keyspace.range(request)
        response = await self._caller.call(
            methods.KV_RANGE, request, repeat=Repeat.READ, timeout=timeout
        )
        return range_result(response, self._keyspace.size)

    async def count(self, prefix: str | bytes, *, timeout: float | None = None) -> int:
        """Return how many keys start with ``prefix``."""
        start, end = prefix_range(prefix)
        return (await self.range(range_request(start, end, count_only=True), timeout=timeout)).count

    async def put(
        self,
        key: str | bytes,
        value: str | bytes,
        *,
        lease: int = 0,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        timeout: float | None = None,
    ) -> PutResult:
        """Write one pair, attached to ``lease`` if given.

        Raises :class:`AmbiguousResult` when the answer did not arrive; its ``resolve()`` returns the pair as it is.
        """
        raw = to_key(key)
        stored = self._keyspace.prefix + raw
        if ignore_value or ignore_lease:
            request = put_request(
                stored,
                value,
                lease=lease,
                prev_kv=prev_kv,
                ignore_value=ignore_value,
                ignore_lease=ignore_lease,
            ).SerializeToString()
        else:
            request = fast.encode_put(stored, to_bytes(value, "value"), lease, prev_kv)
        try:
            answer = await self._caller.call_raw(
                methods.KV_PUT.path, request, repeat=Repeat.ONCE, timeout=timeout
            )
        except AmbiguousResult as error:
            raise self._resolvable(error, lambda: self.get(raw)) from error.__cause__
        revision = fast.decode_put_response(answer)
        if revision is not None:
            return put_result_of(revision)
        return put_result(decode(rpc_pb2.PutResponse, answer), self._keyspace.size)

    async def delete(
        self,
        start: bytes,
        end: bytes = b"",
        *,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteResult:
        """Delete one key, or all of ``[start, end)``.

        Raises :class:`AmbiguousResult` when the answer did not arrive; ``resolve()`` returns what is there now.
        """
        request = rpc_pb2.DeleteRangeRequest(key=start, range_end=end, prev_kv=prev_kv)
        if self._keyspace.size:
            self._keyspace.range(request)
        try:
            response = await self._caller.call(
                methods.KV_DELETE_RANGE, request, repeat=Repeat.ONCE, timeout=timeout
            )
        except AmbiguousResult as error:
            raise self._resolvable(
                error, lambda: self.range(range_request(start, end))
            ) from error.__cause__
        return delete_result(response, self._keyspace.size)

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> int:
        """Forget history below ``revision``; return the current revision.

        Raises :class:`Compacted` when that was done before.
        """
        request = rpc_pb2.CompactionRequest(revision=revision, physical=physical)
        response = await self._caller.call(
            methods.KV_COMPACT, request, repeat=Repeat.ONCE, timeout=timeout
        )
        return response.header.revision

    @staticmethod
    def _resolvable(
        error: AmbiguousResult, resolver: Callable[[], Awaitable[object]]
    ) -> AmbiguousResult:
        return AmbiguousResult(error.operation, error.reason, resolver=resolver)
