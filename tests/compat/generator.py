"""Request scripts with a taste for edges: same seed and same starting revision, same script.

A script goes to two servers whose revision is ``base``; revisions in it are counted from there. Every
decision depends on the seed alone, so a script has the same shape whatever came before it.

Hashes cover lease ids, so that scripts with hashes have no leases whose ids a server chooses, and start
without history. Neither do they leave a compaction half done: etcd hashes what it has not removed yet.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from google.protobuf.message import Message

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.compat.answers import FIRST_SLOT, Step
from tests.compat.services import Services

MAX_TXN_OPS = 8

_KEYS = [
    *(b"a", b"a\x00", b"a\xff", b"ab", b"b", b"b/1", b"b/2", b"c", b"\x00", b"\x00\x00"),
    *(b"\xff", b"\xff\xff", "ключ".encode(), b"z" * 300),
]
_ENDS = [b"\x00", b"\x00", b"\x00\x00", b"\xff\xff\xff", b"b0", b"d", b"a"]
_VALUES = [b"", b"0", b"1", b"10", b"9", b"\x00", b"\xff\xfe", b"v" * 1000]
_LEASES = [1, 2, 7, (1 << 63) - 1, -1, -(1 << 63)]
_FAR = [(1 << 62), (1 << 63) - 1]
_BELOW = [-1, -2, -(1 << 63)]
_LIMITS = [0, 0, 1, 2, 3, 5, -1, -(1 << 63), (1 << 63) - 1, 1 << 31]
_TTLS = [60, 600, 3600, 9_000_000_000, 9_000_000_001, (1 << 63) - 1]
# A length-delimited field with a number that no message has.
_UNKNOWN = b"\xfa\x3e\x03abc"

T = TypeVar("T")


def wants_hashes(seed: int) -> bool:
    """Whether this seed's script asks for hashes; then it needs a store without history."""
    return seed % 4 == 0


class Script:
    """One script; ``steps`` are its requests in order."""

    def __init__(self, seed: int, base: int, length: int = 40) -> None:
        self._random = random.Random(seed)
        self._base = base
        self._granted = 0
        self._hashes = wants_hashes(seed)
        # Roughly how far the store has come.
        self._reach = 0
        self._services = Services(self._random, self._near)
        self.steps: list[Step] = []
        while len(self.steps) < length:
            self._add()

    def _add(self) -> None:
        makers = {
            self._put: 22,
            self._range: 26,
            self._delete: 9,
            self._txn: 24,
            self._compact: 4,
            self._grant: 5,
            self._short_grant: 1,
            self._revoke: 3,
            self._keep_alive: 2,
            self._time_to_live: 3,
            self._leases: 1,
            self._services.lock: 3,
            self._services.election: 4,
            self._services.observe: 0.5,
            self._services.line: 0.5,
            self._services.hash_kv: 6 if self._hashes else 0,
            self._services.ask_member: 1.5,
            self._alarm: 0.3,
        }
        (make,) = self._random.choices(list(makers), list(makers.values()))
        self.steps += make()
        self._reach += 1

    # Values

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _one(self, values: Sequence[T]) -> T:
        return self._random.choice(values)

    def _key(self) -> bytes:
        return b"" if self._chance(0.02) else self._one(_KEYS)

    def _end(self) -> bytes:
        if self._chance(0.35):
            return b""
        return self._one(_ENDS if self._chance(0.7) else _KEYS)

    def _span(self) -> tuple[bytes, bytes]:
        if self._chance(0.25):
            return b"\x00", b"\x00"
        return self._key(), self._end()

    def _lease(self) -> int:
        """A lease that may exist: chosen by a client, chosen by the server, or by nobody."""
        if self._granted and self._chance(0.4):
            return FIRST_SLOT + self._random.randrange(self._granted)
        return self._one(_LEASES) if self._chance(0.8) else 4711

    def _revision(self) -> int:
        kind = self._random.random()
        if kind < 0.55:
            return 0
        if kind < 0.9:
            return self._near()
        return self._one(_BELOW if kind < 0.96 else _FAR)

    def _near(self) -> int:
        """A revision that the store has, had, or may have soon."""
        return max(1, self._base + self._random.randint(-3, self._reach + 2))

    def _bound(self) -> int:
        """A bound of a revision filter, or none."""
        if self._chance(0.9):
            return 0
        return self._base + self._random.randint(0, self._reach + 1)

    # Requests

    def _put_request(self, *, may_keep: bool = True) -> rpc_pb2.PutRequest:
        request = rpc_pb2.PutRequest(
            key=self._key(), value=self._one(_VALUES), prev_kv=self._chance(0.4)
        )
        if self._chance(0.3):
            request.lease = self._lease()
        if may_keep and self._chance(0.1):
            request.ignore_value = True
            if self._chance(0.8):
                request.value = b""
        if may_keep and self._chance(0.1):
            request.ignore_lease = True
            if self._chance(0.8):
                request.lease = 0
        return request

    def _range_request(self, *, odd_sort: bool = True) -> rpc_pb2.RangeRequest:
        key, end = self._span()
        request = rpc_pb2.RangeRequest(
            key=key,
            range_end=end,
            limit=self._one(_LIMITS),
            revision=self._revision(),
            serializable=self._chance(0.3),
            keys_only=self._chance(0.15),
            count_only=self._chance(0.1),
            min_mod_revision=self._bound(),
            max_mod_revision=self._bound(),
            min_create_revision=self._bound(),
            max_create_revision=self._bound(),
        )
        if self._chance(0.5):
            _set_enum(request, "sort_order", self._random.randrange(3))
            _set_enum(request, "sort_target", self._random.randrange(5))
        if odd_sort and self._chance(0.03):
            # Not an unknown target: that ends etcd 3.5.1.
            _set_enum(request, "sort_order", self._one([3, -1, 99]))
        return request

    def _delete_request(self) -> rpc_pb2.DeleteRangeRequest:
        key = self._key()
        end = self._end() if self._chance(0.5) else b""
        if self._chance(0.08):
            key, end = b"\x00", b"\x00"
        return rpc_pb2.DeleteRangeRequest(key=key, range_end=end, prev_kv=self._chance(0.4))

    def _compare(self) -> rpc_pb2.Compare:
        compare = rpc_pb2.Compare(key=self._key())
        if self._chance(0.3):
            compare.range_end = self._end()
        _set_enum(
            compare, "result", self._one([4, -1]) if self._chance(0.03) else self._one(range(4))
        )
        target = self._one(range(5))
        union = target if self._chance(0.9) else self._one(range(5))
        number = self._random.randint(0, 4)
        near = self._one([0, number, self._base + self._random.randint(0, self._reach + 1), -1])
        match union:
            case 0:
                compare.version = number
            case 1:
                compare.create_revision = near
            case 2:
                compare.mod_revision = near
            case 3:
                compare.value = self._one(_VALUES)
            case _:
                compare.lease = self._one([0, *_LEASES])
        if self._chance(0.03):
            compare.ClearField(compare.WhichOneof("target_union") or "version")
        _set_enum(compare, "target", self._one([5, -7]) if self._chance(0.03) else target)
        return compare

    def _op(self, depth: int, *, writes: bool) -> rpc_pb2.RequestOp:
        kind = self._random.random()
        if not writes:
            return rpc_pb2.RequestOp(request_range=self._range_request())
        if kind < 0.01:
            return rpc_pb2.RequestOp()
        if kind < 0.45:
            return rpc_pb2.RequestOp(request_put=self._put_request())
        if kind < 0.65:
            return rpc_pb2.RequestOp(request_delete_range=self._delete_request())
        if kind < 0.85 or depth == 2:
            # A range of unknown order stops the whole transaction here and not there (see the
            # table of differences), after which the stores would not be the same.
            return rpc_pb2.RequestOp(request_range=self._range_request(odd_sort=False))
        return rpc_pb2.RequestOp(request_txn=self._txn_request(depth + 1))

    def _txn_request(self, depth: int = 0) -> rpc_pb2.TxnRequest:
        writes = depth > 0 or self._chance(0.8)
        most = MAX_TXN_OPS + 1 if self._chance(0.04) else 3
        request = rpc_pb2.TxnRequest()
        request.compare.extend(self._compare() for _ in range(self._random.randint(0, most)))
        for branch in (request.success, request.failure):
            size = self._random.randint(0, most)
            branch.extend(self._op(depth, writes=writes) for _ in range(size))
        return request

    # Steps

    def _put(self) -> list[Step]:
        unknown = _UNKNOWN if self._chance(0.03) else b""
        return [Step(rpcs.KV_PUT, self._put_request(), unknown)]

    def _range(self) -> list[Step]:
        unknown = _UNKNOWN if self._chance(0.03) else b""
        return [Step(rpcs.KV_RANGE, self._range_request(), unknown)]

    def _delete(self) -> list[Step]:
        return [Step(rpcs.KV_DELETE_RANGE, self._delete_request())]

    def _txn(self) -> list[Step]:
        request = self._txn_request()
        if _has_delete(request):
            # etcd ends itself when a put keeps the value of a key that the same transaction deleted.
            _forget_keeps(request)
        return [Step(rpcs.KV_TXN, request)]

    def _compact(self) -> list[Step]:
        revision = self._revision()
        if self._chance(0.5):
            revision = max(1, self._base + self._random.randint(-1, self._reach // 2))
        physical = self._chance(0.1) or self._hashes
        return [
            Step(rpcs.KV_COMPACT, rpc_pb2.CompactionRequest(revision=revision, physical=physical))
        ]

    def _grant(self) -> list[Step]:
        lease_id = 0 if self._chance(0.3) and not self._hashes else self._one(_LEASES)
        ttl = self._one(_TTLS[:3] if lease_id == 0 else _TTLS)
        if lease_id == 0:
            self._granted += 1
        return [Step(rpcs.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl))]

    def _short_grant(self) -> list[Step]:
        """A lease of the least TTL, gone again before it can end by itself on one of the two."""
        ttl = self._one([0, 1, 2, -5, -(1 << 63)])
        return [
            Step(rpcs.LEASE_GRANT, rpc_pb2.LeaseGrantRequest(ID=99, TTL=ttl)),
            Step(rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=99)),
        ]

    def _revoke(self) -> list[Step]:
        lease_id = 0 if self._chance(0.1) else self._lease()
        return [Step(rpcs.LEASE_REVOKE, rpc_pb2.LeaseRevokeRequest(ID=lease_id))]

    def _keep_alive(self) -> list[Step]:
        lease_id = 0 if self._chance(0.1) else self._lease()
        return [Step(rpcs.LEASE_KEEP_ALIVE, rpc_pb2.LeaseKeepAliveRequest(ID=lease_id))]

    def _time_to_live(self) -> list[Step]:
        lease_id = 0 if self._chance(0.1) else self._lease()
        request = rpc_pb2.LeaseTimeToLiveRequest(ID=lease_id, keys=self._chance(0.7))
        return [Step(rpcs.LEASE_TIME_TO_LIVE, request)]

    def _leases(self) -> list[Step]:
        return [Step(rpcs.LEASE_LEASES, rpc_pb2.LeaseLeasesRequest())]

    def _alarm(self) -> list[Step]:
        def others() -> list[Step]:
            steps = made()
            # Without space such a transaction is refused here and done there (see the table of
            # differences), after which the stores would not be the same.
            return steps if not any(_has_nested_puts_only(step.request) for step in steps) else []

        def made() -> list[Step]:
            makers = [self._put, self._range, self._delete, self._txn, self._compact]
            makers += [self._grant, self._revoke, self._keep_alive]
            if self._hashes:
                makers.append(self._services.hash_kv)
            return self._one([*makers, self._services.lock])()

        return self._services.alarm(others)


def _set_enum(message: rpc_pb2.RangeRequest | rpc_pb2.Compare, name: str, number: int) -> None:
    # By name: the types know the defined members only, and the others are wanted too.
    setattr(message, name, number)


def ops_of(request: rpc_pb2.TxnRequest) -> list[rpc_pb2.RequestOp]:
    """Every operation of a transaction, both branches, nested ones included."""
    found: list[rpc_pb2.RequestOp] = []
    for op in (*request.success, *request.failure):
        found.append(op)
        if op.HasField("request_txn"):
            found += ops_of(op.request_txn)
    return found


def _has_nested_puts_only(request: Message) -> bool:
    if not isinstance(request, rpc_pb2.TxnRequest):
        return False
    outer = any(op.HasField("request_put") for op in (*request.success, *request.failure))
    return not outer and any(op.HasField("request_put") for op in ops_of(request))


def _has_delete(request: rpc_pb2.TxnRequest) -> bool:
    return any(op.HasField("request_delete_range") for op in ops_of(request))


def _forget_keeps(request: rpc_pb2.TxnRequest) -> None:
    for op in ops_of(request):
        if op.HasField("request_put"):
            op.request_put.ignore_value = False
            op.request_put.ignore_lease = False
