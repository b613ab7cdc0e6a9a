"""The etcd v3 store as a sequential program: one request at a time, no cleverness.

Requests and responses are the wire messages; headers hold the revision only. Every version of every
key is kept for ever, so that a compaction is just a number below which reads are refused. Everything
is found by looking through everything (etcd API: KV and Lease).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from coord.wire import kv_pb2, rpc_pb2

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_TTL_S = 9_000_000_000
_SORT_ORDERS = range(3)
_SORT_TARGETS = range(5)


class Version(NamedTuple):
    """One value of a key, with its counters."""

    value: bytes
    create: int
    mod: int
    version: int
    lease: int


class Change(NamedTuple):
    """What watchers see: a key has a new version, or None if it was deleted."""

    revision: int
    key: bytes
    now: Version | None
    before: Version | None


class Refusal(Exception):
    """The request is refused; ``symbol`` names the row of the API's error table."""

    def __init__(self, symbol: str) -> None:
        super().__init__(symbol)
        self.symbol = symbol


def in_range(key: bytes, start: bytes, end: bytes) -> bool:
    """Tell whether a key is in the range that ``start`` and ``end`` mean on the wire."""
    if not end:
        return key == start
    return start <= key and (end == b"\x00" or key < end)


def pair_of(key: bytes, version: Version) -> kv_pb2.KeyValue:
    """Return the wire message of a key's version."""
    return kv_pb2.KeyValue(
        key=key,
        value=version.value,
        create_revision=version.create,
        mod_revision=version.mod,
        version=version.version,
        lease=version.lease,
    )


class Model:
    """The store. Methods take valid requests, or raise `Refusal` and have changed nothing."""

    def __init__(self, *, min_ttl: int = 2, max_txn_ops: int = 128) -> None:
        self.revision: int = 1
        self.compact_revision: int = -1
        self.kv: dict[bytes, Version] = {}
        self.leases: dict[int, int] = {}
        self.changes: list[Change] = []
        self._min_ttl = min_ttl
        self._max_txn_ops = max_txn_ops
        # The revision of the changes under way; the same for all of one request.
        self._writing = 2

    # Reading.

    def at(self, revision: int) -> dict[bytes, Version]:
        """Return all pairs as of a revision."""
        then: dict[bytes, Version] = {}
        for change in self.changes:
            if change.revision <= revision:
                then.pop(change.key, None)
                if change.now is not None:
                    then[change.key] = change.now
        return then

    def hash_kv(self, revision: int = 0) -> int:
        """HashKV: CRC-32C over what a store at a revision, compacted at another, has to hold."""
        from coord_server.storage import crc32c

        revision = revision or self.revision
        compacted = self.compact_revision
        if 0 < revision < compacted:
            raise Refusal("COMPACTED")
        if revision > self.revision:
            raise Refusal("FUTURE_REV")
        records = [record for record in self._records() if record[0] <= revision]
        kept = _newest(records)
        after_compaction = _newest([record for record in records if record[0] <= compacted])
        total = crc32c.value(b"key")
        for record in records:
            # Gone is what the compaction has dropped; passed over is what one at this revision would
            # drop, unless that is everything.
            gone = record not in after_compaction or (bool(kept) and record not in kept)
            if gone and record[0] <= compacted:
                continue
            main, sub, key, now = record
            name = main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big")
            if now is None:
                name, body = name + b"t", kv_pb2.KeyValue(key=key)
            else:
                body = pair_of(key, now)
            total = crc32c.extend(total, name + body.SerializeToString(deterministic=True))
        return total

    def _records(self) -> list[_Record]:
        records: list[_Record] = []
        for change in self.changes:
            same = bool(records) and records[-1].main == change.revision
            sub = records[-1].sub + 1 if same else 0
            records.append(_Record(change.revision, sub, change.key, change.now))
        return records

    def range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        """Range outside of a transaction."""
        _validate_range(request)
        if request.revision > self.revision:
            raise Refusal("FUTURE_REV")
        if 0 < request.revision < self.compact_revision:
            raise Refusal("COMPACTED")
        response = self._range(request)
        response.header.revision = self.revision
        return response

    def _range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        kv = self.kv if request.revision <= 0 else self.at(request.revision)
        rows = sorted((k, v) for k, v in kv.items() if in_range(k, request.key, request.range_end))
        response = rpc_pb2.RangeResponse(count=len(rows))
        if request.count_only:
            return response
        filters: list[tuple[int, Callable[[Version], bool]]] = [
            (request.min_mod_revision, lambda v: v.mod >= request.min_mod_revision),
            (request.max_mod_revision, lambda v: v.mod <= request.max_mod_revision),
            (request.min_create_revision, lambda v: v.create >= request.min_create_revision),
            (request.max_create_revision, lambda v: v.create <= request.max_create_revision),
        ]
        active = [keep for bound, keep in filters if bound]
        rows = [row for row in rows if all(keep(row[1]) for keep in active)]
        if request.limit > 0 and request.sort_order == 0 and not active:
            rows = rows[: request.limit + 1]
        orders: list[Callable[[tuple[bytes, Version]], tuple[int, bytes]]] = [
            lambda row: (0, row[0]),
            lambda row: (row[1].version, b""),
            lambda row: (row[1].create, b""),
            lambda row: (row[1].mod, b""),
            lambda row: (0, row[1].value),
        ]
        descending = request.sort_order == rpc_pb2.RangeRequest.DESCEND
        rows.sort(key=orders[request.sort_target], reverse=descending)
        if 0 < request.limit < len(rows):
            rows = rows[: request.limit]
            response.more = True
        for key, version in rows:
            pair = response.kvs.add()
            pair.CopyFrom(pair_of(key, version))
            if request.keys_only:
                pair.ClearField("value")
        return response

    # Writing.

    def put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        """Put outside of a transaction."""
        _validate_put(request)
        self._check_put(request)
        response = self._put(request)
        self._commit()
        response.header.revision = self.revision
        return response

    def delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.DeleteRangeResponse:
        """DeleteRange outside of a transaction."""
        if not request.key:
            raise Refusal("EMPTY_KEY")
        response = self._delete_range(request)
        self._commit()
        response.header.revision = self.revision
        return response

    def txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """Txn, read-only or not."""
        _validate_txn(request, self._max_txn_ops)
        _changed_keys(request.success)
        _changed_keys(request.failure)
        path = self._path(request)
        self._check_path(path, [])
        response = self._run(path)
        self._commit()
        response.header.revision = self.revision
        return response

    def compact(self, request: rpc_pb2.CompactionRequest) -> rpc_pb2.CompactionResponse:
        """Refuse reads below a revision from now on."""
        if request.revision <= self.compact_revision:
            raise Refusal("COMPACTED")
        if request.revision > self.revision:
            raise Refusal("FUTURE_REV")
        self.compact_revision = request.revision
        response = rpc_pb2.CompactionResponse()
        response.header.revision = self.revision
        return response

    def grant(self, request: rpc_pb2.LeaseGrantRequest) -> rpc_pb2.LeaseGrantResponse:
        """LeaseGrant with a chosen id."""
        if request.TTL > MAX_TTL_S:
            raise Refusal("LEASE_TTL_TOO_LARGE")
        if request.ID in self.leases:
            raise Refusal("LEASE_EXIST")
        self.leases[request.ID] = max(request.TTL, self._min_ttl)
        response = rpc_pb2.LeaseGrantResponse(ID=request.ID, TTL=self.leases[request.ID])
        response.header.revision = self.revision
        return response

    def revoke(self, request: rpc_pb2.LeaseRevokeRequest) -> rpc_pb2.LeaseRevokeResponse:
        """LeaseRevoke, and what happens when a lease expires."""
        if request.ID not in self.leases:
            raise Refusal("LEASE_NOT_FOUND")
        del self.leases[request.ID]
        for key in self.lease_keys(request.ID):
            self._change(key, None)
        self._commit()
        response = rpc_pb2.LeaseRevokeResponse()
        response.header.revision = self.revision
        return response

    def lease_keys(self, lease_id: int) -> list[bytes]:
        """Return the keys whose latest put names the lease."""
        return sorted(key for key, version in self.kv.items() if version.lease == lease_id)

    def adopt(self, revision: int, changes: Sequence[tuple[bytes, Version | None]]) -> None:
        """Take over what happened elsewhere at the next revision; nothing is checked."""
        self._writing = revision
        for key, now in changes:
            self._change(key, now)
        self.revision = revision
        self._writing = revision + 1

    def _commit(self) -> None:
        if self.changes and self.changes[-1].revision == self._writing:
            self.revision = self._writing
        self._writing = self.revision + 1

    def _visible(self) -> int:
        return self.changes[-1].revision if self.changes else self.revision

    def _change(self, key: bytes, now: Version | None) -> None:
        before = self.kv.pop(key, None)
        if now is not None:
            self.kv[key] = now
        self.changes.append(Change(self._writing, key, now, before))

    def _check_put(self, request: rpc_pb2.PutRequest) -> None:
        if request.lease and request.lease not in self.leases:
            raise Refusal("LEASE_NOT_FOUND")
        if (request.ignore_value or request.ignore_lease) and request.key not in self.kv:
            raise Refusal("KEY_NOT_FOUND")

    def _put(self, request: rpc_pb2.PutRequest) -> rpc_pb2.PutResponse:
        old = self.kv.get(request.key)
        response = rpc_pb2.PutResponse()
        if request.prev_kv and old is not None:
            response.prev_kv.CopyFrom(pair_of(request.key, old))
        now = Version(request.value, self._writing, self._writing, 1, request.lease)
        if old is not None:
            now = now._replace(create=old.create, version=old.version + 1)
            if request.ignore_value:
                now = now._replace(value=old.value)
            if request.ignore_lease:
                now = now._replace(lease=old.lease)
        self._change(request.key, now)
        response.header.revision = self._visible()
        return response

    def _delete_range(self, request: rpc_pb2.DeleteRangeRequest) -> rpc_pb2.DeleteRangeResponse:
        keys = sorted(key for key in self.kv if in_range(key, request.key, request.range_end))
        response = rpc_pb2.DeleteRangeResponse(deleted=len(keys))
        for key in keys:
            if request.prev_kv:
                response.prev_kvs.add().CopyFrom(pair_of(key, self.kv[key]))
            self._change(key, None)
        response.header.revision = self._visible()
        return response

    # Transactions.

    def _path(self, request: rpc_pb2.TxnRequest) -> _Path:
        succeeded = all(self._holds(compare) for compare in request.compare)
        ops = request.success if succeeded else request.failure
        nested = [self._path(op.request_txn) if op.HasField("request_txn") else None for op in ops]
        return _Path(succeeded, ops, nested)

    def _holds(self, compare: rpc_pb2.Compare) -> bool:
        in_it = [v for k, v in self.kv.items() if in_range(k, compare.key, compare.range_end)]
        if compare.target == rpc_pb2.Compare.VALUE:
            if not in_it:
                return False
            signs = [_sign(version.value, compare.value) for version in in_it]
        else:
            given = [
                compare.version,
                compare.create_revision,
                compare.mod_revision,
                0,
                compare.lease,
            ]
            target = compare.target if 0 <= compare.target < len(given) else 3
            versions = in_it or [Version(b"", 0, 0, 0, 0)]
            signs = [
                _sign((v.version, v.create, v.mod, 0, v.lease)[target], given[target])
                for v in versions
            ]
        relations: list[Callable[[int], bool]] = [
            lambda sign: sign == 0,
            lambda sign: sign > 0,
            lambda sign: sign < 0,
            lambda sign: sign != 0,
        ]
        known = 0 <= compare.result < len(relations)
        return not known or all(relations[compare.result](sign) for sign in signs)

    def _check_path(self, path: _Path, deleted: list[tuple[bytes, bytes]]) -> None:
        for op, nested in zip(path.ops, path.nested, strict=True):
            if nested is not None:
                self._check_path(nested, deleted)
            elif op.HasField("request_put"):
                put = op.request_put
                self._check_put(put)
                if (put.ignore_value or put.ignore_lease) and any(
                    in_range(put.key, start, end) for start, end in deleted
                ):
                    raise Refusal("KEY_NOT_FOUND")
            elif op.HasField("request_delete_range"):
                deleted.append((op.request_delete_range.key, op.request_delete_range.range_end))
            elif op.request_range.revision > self.revision:
                raise Refusal("FUTURE_REV")
            elif op.request_range.revision and op.request_range.revision < self.compact_revision:
                raise Refusal("COMPACTED")

    def _run(self, path: _Path) -> rpc_pb2.TxnResponse:
        response = rpc_pb2.TxnResponse(succeeded=path.succeeded)
        response.header.SetInParent()
        for op, nested in zip(path.ops, path.nested, strict=True):
            part = response.responses.add()
            if nested is not None:
                part.response_txn.CopyFrom(self._run(nested))
            elif op.HasField("request_put"):
                part.response_put.CopyFrom(self._put(op.request_put))
            elif op.HasField("request_delete_range"):
                part.response_delete_range.CopyFrom(self._delete_range(op.request_delete_range))
            else:
                part.response_range.CopyFrom(self._range(op.request_range))
                part.response_range.header.revision = self._visible()
        return response


class _Record(NamedTuple):
    """A change as it is stored."""

    main: int
    sub: int
    key: bytes
    now: Version | None


def _newest(records: Sequence[_Record]) -> set[_Record]:
    """Return the newest record of each key, without tombstones: what a compaction keeps."""
    newest = {record.key: record for record in records}
    return {record for record in newest.values() if record.now is not None}


class _Path(NamedTuple):
    """A transaction whose compares have been evaluated."""

    succeeded: bool
    ops: Sequence[rpc_pb2.RequestOp]
    nested: list[_Path | None]


def _sign(actual: bytes | int, given: bytes | int) -> int:
    return (actual > given) - (actual < given)  # type: ignore[operator]


def _validate_range(request: rpc_pb2.RangeRequest) -> None:
    if not request.key:
        raise Refusal("EMPTY_KEY")
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        raise Refusal("INVALID_SORT_OPTION")


def _validate_put(request: rpc_pb2.PutRequest) -> None:
    if not request.key:
        raise Refusal("EMPTY_KEY")
    if request.ignore_value and request.value:
        raise Refusal("VALUE_PROVIDED")
    if request.ignore_lease and request.lease:
        raise Refusal("LEASE_PROVIDED")


def _validate_txn(request: rpc_pb2.TxnRequest, budget: int) -> None:
    ops = [*request.success, *request.failure]
    longest = max(len(request.compare), len(request.success), len(request.failure))
    if longest > budget:
        raise Refusal("TOO_MANY_OPS")
    if any(not compare.key for compare in request.compare):
        raise Refusal("EMPTY_KEY")
    for op in ops:
        if op.HasField("request_txn"):
            _validate_txn(op.request_txn, budget - longest)
        elif op.HasField("request_put"):
            _validate_put(op.request_put)
        elif op.HasField("request_delete_range"):
            if not op.request_delete_range.key:
                raise Refusal("EMPTY_KEY")
        elif op.HasField("request_range"):
            _validate_range(op.request_range)
        else:
            raise Refusal("KEY_NOT_FOUND")


def _changed_keys(
    ops: Sequence[rpc_pb2.RequestOp],
) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Return what a branch puts and deletes; refuse it if a key is found to be changed twice."""
    puts: list[bytes] = []
    deletes = [
        (op.request_delete_range.key, op.request_delete_range.range_end)
        for op in ops
        if op.HasField("request_delete_range")
    ]

    def add(key: bytes, *, unless: Sequence[bytes] = ()) -> None:
        # The range end is taken literally here: a single zero byte is below every key.
        hit = any(key == start if not end else start <= key < end for start, end in deletes)
        if hit or (key in puts and key not in unless):
            raise Refusal("DUPLICATE_KEY")
        puts.append(key)

    for op in ops:
        if op.HasField("request_txn"):
            then_puts, then_deletes = _changed_keys(op.request_txn.success)
            else_puts, else_deletes = _changed_keys(op.request_txn.failure)
            for key in dict.fromkeys(then_puts):
                add(key)
            for key in dict.fromkeys(else_puts):
                add(key, unless=then_puts)
            deletes += then_deletes + else_deletes
    for op in ops:
        if op.HasField("request_put"):
            add(op.request_put.key)
    return puts, deletes
