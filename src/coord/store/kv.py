"""Single operations on keys (etcd API: Range, Put, DeleteRange, Compact)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from coord.errors import AmbiguousResult, InvalidArgument
from coord.store.caller import Caller, Repeat, decode
from coord.store.keys import prefix_range, to_bytes, to_key
from coord.store.values import DeleteResult, KeyValue, PutResult, RangeResult
from coord.wire import fast, methods, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class SortBy(Enum):
    """What a range is ordered by."""

    KEY = rpc_pb2.RangeRequest.KEY
    VERSION = rpc_pb2.RangeRequest.VERSION
    CREATE_REVISION = rpc_pb2.RangeRequest.CREATE
    MOD_REVISION = rpc_pb2.RangeRequest.MOD
    VALUE = rpc_pb2.RangeRequest.VALUE


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
    """Build a RangeRequest. Raises :class:`InvalidArgument` for a negative limit or revision."""
    if limit < 0:
        raise InvalidArgument(f"limit must be 0 (no limit) or more, not {limit}")
    if revision is not None and revision <= 0:
        raise InvalidArgument(f"revision must be None (current) or at least 1, not {revision}")
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
        request.sort_order = (
            rpc_pb2.RangeRequest.DESCEND if descending else rpc_pb2.RangeRequest.ASCEND
        )
        request.sort_target = sort_by.value
    # Seldom given, and each costs something even as a default.
    if min_mod_revision or max_mod_revision or min_create_revision or max_create_revision:
        request.min_mod_revision = min_mod_revision
        request.max_mod_revision = max_mod_revision
        request.min_create_revision = min_create_revision
        request.max_create_revision = max_create_revision
    return request


def range_result(response: rpc_pb2.RangeResponse) -> RangeResult:
    """Convert a RangeResponse."""
    return RangeResult(
        items=tuple([KeyValue.from_wire(kv) for kv in response.kvs]),
        count=response.count,
        more=response.more,
        revision=response.header.revision,
    )


def put_result(response: rpc_pb2.PutResponse) -> PutResult:
    """Convert a PutResponse."""
    previous = KeyValue.from_wire(response.prev_kv) if response.HasField("prev_kv") else None
    return PutResult(revision=response.header.revision, previous=previous)


def delete_result(response: rpc_pb2.DeleteRangeResponse) -> DeleteResult:
    """Convert a DeleteRangeResponse."""
    return DeleteResult(
        revision=response.header.revision,
        deleted=response.deleted,
        previous=tuple([KeyValue.from_wire(kv) for kv in response.prev_kvs]),
    )


class KV:
    """Reads and writes of keys and ranges."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

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
                fast.encode_point_range(raw, serializable),
                repeat=Repeat.READ,
                timeout=timeout,
            )
            response = decode(rpc_pb2.RangeResponse, answer)
        else:
            request = range_request(raw, b"", revision=revision, serializable=serializable)
            response = await self._caller.call(
                methods.KV_RANGE, request, repeat=Repeat.READ, timeout=timeout
            )
        return KeyValue.from_wire(response.kvs[0]) if response.kvs else None

    async def range(
        self, request: rpc_pb2.RangeRequest, *, timeout: float | None = None
    ) -> RangeResult:
        """Run a range read."""
        return range_result(
            await self._caller.call(methods.KV_RANGE, request, repeat=Repeat.READ, timeout=timeout)
        )

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
        timeout: float | None = None,
    ) -> PutResult:
        """Write one pair, attached to ``lease`` if given.

        Raises :class:`AmbiguousResult` when the answer did not arrive; its ``resolve()`` returns the pair as it is.
        """
        raw = to_key(key)
        request = fast.encode_put(raw, to_bytes(value, "value"), lease, prev_kv)
        try:
            answer = await self._caller.call_raw(
                methods.KV_PUT.path, request, repeat=Repeat.ONCE, timeout=timeout
            )
        except AmbiguousResult as error:
            raise self._resolvable(error, lambda: self.get(raw)) from error.__cause__
        revision = fast.decode_put_response(answer)
        if revision is not None:
            return PutResult(revision=revision)
        return put_result(decode(rpc_pb2.PutResponse, answer))

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
        try:
            return delete_result(
                await self._caller.call(
                    methods.KV_DELETE_RANGE, request, repeat=Repeat.ONCE, timeout=timeout
                )
            )
        except AmbiguousResult as error:
            raise self._resolvable(
                error, lambda: self.range(range_request(start, end))
            ) from error.__cause__

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
