"""The applier against the sequential model, with flushes, sweeps and crashes at random moments."""

from __future__ import annotations

from typing import TypeAlias

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,  # pyright: ignore[reportUnknownVariableType] - untyped upstream
)
from typing_extensions import override

from coord.testing.model import Change, Model, Refusal, in_range, pair_of
from coord.wire import fast, kv_pb2
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.api import validate
from coord_server.apply import Applier
from coord_server.errors import ErrorSpec, Refused
from coord_server.hashing import KeyHash
from coord_server.mvcc.events import Event
from coord_server.mvcc.prepared import prepare
from coord_server.mvcc.revision import encode_revision
from coord_server.mvcc.store import StoreLimits
from coord_server.ops import OpKind, encode_batch
from coord_server.storage.backend import Batch, Bucket
from coord_server.storage.memory_backend import MemoryBackend

Request: TypeAlias = (
    pb.PutRequest
    | pb.DeleteRangeRequest
    | pb.TxnRequest
    | pb.CompactionRequest
    | pb.LeaseGrantRequest
    | pb.LeaseRevokeRequest
)
Response: TypeAlias = (
    pb.PutResponse
    | pb.DeleteRangeResponse
    | pb.TxnResponse
    | pb.CompactionResponse
    | pb.LeaseGrantResponse
    | pb.LeaseRevokeResponse
    | pb.RangeResponse
)

MAX_OPS = 6
CLUSTER, MEMBER = 7, 1 << 63

KEYS = st.sampled_from([b"a", b"a\x00", b"ab", b"b", b"c", b"\x00", b"\xff"])
ENDS = st.sampled_from([b"", b"", b"\x00", b"b", b"c", b"d", b"a", b"\x00\x00"])
VALUES = st.sampled_from([b"", b"1", b"2", b"x" * 130])
LEASES = st.sampled_from([0, 0, 0, 0, 0, 0, 1, -2, 3])
# 0 is now; n > 0 stands for n - 2 revisions ago, so that the future and compacted ones occur too.
REVISIONS = st.one_of(st.just(0), st.integers(-2, 9))
BOUNDS = st.one_of(st.just(0), st.just(0), st.integers(-1, 12))


@st.composite
def puts(draw: st.DrawFn) -> pb.PutRequest:
    keep_value, keep_lease = draw(
        st.sampled_from([(False, False)] * 9 + [(True, False), (False, True), (True, True)])
    )
    return pb.PutRequest(
        key=draw(KEYS),
        value=b"" if keep_value else draw(VALUES),
        lease=0 if keep_lease else draw(LEASES),
        prev_kv=draw(st.booleans()),
        ignore_value=keep_value,
        ignore_lease=keep_lease,
    )


DELETES = st.builds(pb.DeleteRangeRequest, key=KEYS, range_end=ENDS, prev_kv=st.booleans())
RANGES = st.builds(
    pb.RangeRequest,
    key=KEYS,
    range_end=ENDS,
    limit=st.integers(-1, 4),
    revision=REVISIONS,
    sort_order=st.integers(0, 2),
    sort_target=st.integers(0, 4),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, False, True]),
    min_mod_revision=BOUNDS,
    max_mod_revision=BOUNDS,
    min_create_revision=BOUNDS,
    max_create_revision=BOUNDS,
)


@st.composite
def compares(draw: st.DrawFn) -> pb.Compare:
    compare = pb.Compare(
        # One more than there are of each: unknown values have a meaning too.
        result=pb.Compare.CompareResult.ValueType(draw(st.integers(0, 4))),
        target=pb.Compare.CompareTarget.ValueType(draw(st.integers(0, 5))),
        key=draw(KEYS),
        range_end=draw(ENDS),
    )
    field = draw(
        st.sampled_from(["version", "create_revision", "mod_revision", "lease", "value", ""])
    )
    if field == "value":
        compare.value = draw(VALUES)
    elif field:
        setattr(compare, field, draw(st.integers(0, 6)))
    return compare


@st.composite
def txns(draw: st.DrawFn, depth: int = 2) -> pb.TxnRequest:
    request = pb.TxnRequest(compare=draw(st.lists(compares(), max_size=2)))
    for branch in (request.success, request.failure):
        for _ in range(draw(st.integers(0, 3))):
            kind = draw(st.integers(0, 9))
            op = branch.add()
            if kind < 4:
                op.request_put.CopyFrom(draw(puts()))
            elif kind < 6:
                op.request_range.CopyFrom(draw(RANGES))
            elif kind < 8:
                op.request_delete_range.CopyFrom(draw(DELETES))
            elif depth:
                op.request_txn.CopyFrom(draw(txns(depth - 1)))
    return request


REQUESTS: st.SearchStrategy[Request] = st.one_of(
    puts(),
    puts(),
    puts(),
    DELETES,
    txns(),
    txns(),
    st.builds(pb.CompactionRequest, revision=REVISIONS),
    st.builds(
        pb.LeaseGrantRequest,
        ID=st.sampled_from([1, -2, 3]),
        TTL=st.sampled_from([0, 5, 60, 9_000_000_001]),
    ),
    st.builds(pb.LeaseRevokeRequest, ID=st.sampled_from([1, -2, 3])),
)
KINDS = {
    pb.PutRequest: OpKind.PUT,
    pb.DeleteRangeRequest: OpKind.DELETE_RANGE,
    pb.TxnRequest: OpKind.TXN,
    pb.CompactionRequest: OpKind.COMPACT,
    pb.LeaseGrantRequest: OpKind.LEASE_GRANT,
    pb.LeaseRevokeRequest: OpKind.LEASE_REVOKE,
}


class ApplierMachine(RuleBasedStateMachine):
    @initialize(cache=st.sampled_from([0, 200, 1 << 20]), recent=st.sampled_from([1, 6, 1000]))
    def start(self, cache: int, recent: int) -> None:
        self.limits = StoreLimits(record_cache_bytes=cache, recent_events=recent)
        self.backend = MemoryBackend()
        self.model = Model(max_txn_ops=MAX_OPS)
        self.log: list[tuple[int, int, bytes]] = []
        self.writing: Batch | None = None
        self.applier = self.boot()

    def boot(self) -> Applier:
        return Applier(self.backend, fast.HeaderStamp(CLUSTER, MEMBER), limits=self.limits)

    # What may happen.

    @rule(requests=st.lists(st.one_of(puts(), puts(), DELETES), min_size=3, max_size=8))
    def changes(self, requests: list[Request]) -> None:
        self.entry(requests, 0)

    @rule(requests=st.lists(REQUESTS, min_size=1, max_size=6), term=st.integers(0, 1))
    def entry(self, requests: list[Request], term: int) -> None:
        ops: list[tuple[int, bytes]] = []
        expected: list[Response | ErrorSpec] = []
        start = len(self.model.changes)
        for request in requests:
            self.resolve(request)
            answer = self.ask_model(request)
            refusal = validated(request)
            if refusal is not None:
                assert answer == refusal
                continue
            ops.append((KINDS[type(request)], request.SerializeToString()))
            expected.append(answer)
        index = len(self.log) + 1
        term += self.log[-1][1] if self.log else 1
        self.log.append((index, term, encode_batch(ops)))
        applied = self.applier.apply(index, term, self.log[-1][2], answers=True)
        assert [
            result if isinstance(result, ErrorSpec) else parsed(type(answer), result, term)
            for result, answer in zip(applied.results, expected, strict=True)
        ] == expected
        compare_events(applied.events, self.model.changes[start:])

    @rule(back=st.integers(0, 6))
    def hash(self, back: int) -> None:
        """HashKV needs everything flushed; a sweep may be half-way."""
        self.flush_all()
        revision = max(self.model.revision - back, self.model.compact_revision, 1)
        found = KeyHash(self.applier.store, revision, self.model.compact_revision)
        end = encode_revision(revision + 1, 0)
        found.feed(self.backend.scan(Bucket.KEY, b"", end))
        assert found.value == self.model.hash_kv(revision)

    @rule(request=RANGES)
    def read(self, request: pb.RangeRequest) -> None:
        self.resolve(request)
        expected: pb.RangeResponse | ErrorSpec
        try:
            expected = self.model.range(request)
            expected.ClearField("header")
        except Refusal as refusal:
            expected = spec_of(refusal)
        assert validate.validate_range(request) is None
        try:
            answer: pb.RangeResponse | ErrorSpec = pb.RangeResponse.FromString(
                self.applier.store.range_body(request)
            )
        except Refused as refused:
            answer = refused.spec
        assert answer == expected

    @rule(key=KEYS, end=ENDS, start=st.integers(0, 12), limit=st.integers(1, 3))
    def look_back(self, key: bytes, end: bytes, start: int, limit: int) -> None:
        store = self.applier.store
        start = max(1, store.revision - start + 1)
        stop = store.revision
        if start < store.compact_revision:
            with pytest.raises(Refused) as refused:
                store.history(key, end, start, stop, limit)
            assert refused.value.spec == errors.COMPACTED
            return
        events: list[Event] = []
        at = start
        while at <= stop:
            some, following = store.history(key, end, at, stop, limit)
            assert following > at
            assert len({event.mod_revision for event in some}) <= limit
            assert all(at <= event.mod_revision < following for event in some)
            events += some
            at = following
        changes = [
            c
            for c in self.model.changes
            if start <= c.revision <= stop and in_range(c.key, key, end)
        ]
        # Of several changes of one key at the compact revision itself only the last one is kept.
        compacted = store.compact_revision
        last_there = {c.key: c for c in changes if c.revision == compacted}
        changes = [c for c in changes if c.revision != compacted or last_there[c.key] is c]
        kept: list[Event] = []
        for place, event in enumerate(events):
            later = [e.key for e in events[place + 1 :] if e.mod_revision == event.mod_revision]
            if event.mod_revision != compacted or event.key not in later:
                kept.append(event)
        compare_events(kept, changes)

    @rule(key=KEYS, back=st.integers(0, 8))
    def look_up(self, key: bytes, back: int) -> None:
        revision = self.model.revision - back
        body = self.applier.store.value_at(key, revision)
        version = self.model.at(revision).get(key)
        if version is None or revision < self.model.compact_revision:
            assert body is None
        else:
            assert body is not None
            assert kv_pb2.KeyValue.FromString(body) == pair_of(key, version)

    @rule(budget=st.integers(1, 5))
    def sweep(self, budget: int) -> None:
        more = self.applier.store.compact_some(budget)
        assert more == self.applier.store.compacting

    @precondition(lambda self: self.writing is None)
    @rule()
    def take(self) -> None:
        self.writing = self.applier.take_batch()

    @precondition(lambda self: self.writing is not None)
    @rule()
    def write(self) -> None:
        assert self.writing is not None
        self.backend.write(self.writing)

    @precondition(lambda self: self.writing is not None)
    @rule()
    def flushed(self) -> None:
        self.write()
        self.applier.flushed()
        self.writing = None

    @rule()
    def crash(self) -> None:
        self.writing = None
        self.applier = self.boot()
        assert self.applier.applied_index <= len(self.log)
        start = self.applier.applied_index
        for index, term, data in self.log:
            applied = self.applier.apply(index, term, data, answers=False)
            assert applied.results == []
            assert index > start or applied.events == []

    def flush_all(self) -> None:
        if self.writing is not None:
            self.flushed()
        batch = self.applier.take_batch()
        if batch is not None:
            self.backend.write(batch)
            self.applier.flushed()

    @rule()
    def stop_and_start(self) -> None:
        self.flush_all()
        assert self.applier.take_batch() is None
        self.applier = self.boot()
        assert self.applier.applied_index == len(self.log)

    # What holds always.

    @invariant()
    def same_state(self) -> None:
        if not hasattr(self, "applier"):
            return
        store, model = self.applier.store, self.model
        assert store.revision == model.revision
        assert store.compact_revision == model.compact_revision
        assert store.keys(b"\x00", b"\x00") == sorted(model.kv)
        assert sorted(self.applier.lessor.ids()) == sorted(model.leases)
        for lease_id, ttl in model.leases.items():
            assert self.applier.lessor.granted_ttl(lease_id) == ttl
            assert self.applier.lessor.keys(lease_id) == model.lease_keys(lease_id)

    @override
    def teardown(self) -> None:
        """After a sweep to the end the backend holds what the rules keep, and nothing else."""
        if not hasattr(self, "applier"):
            return
        while self.applier.store.compact_some(3):
            pass
        self.stop_and_start()
        assert not self.applier.store.compacting
        kept: dict[bytes, list[Change]] = {}
        compacted = self.model.compact_revision
        for change in self.model.changes:
            changes = kept.setdefault(change.key, [])
            if change.revision <= compacted:
                changes.clear()
            if change.now is not None or change.revision >= compacted:
                changes.append(change)
        count = sum(len(changes) for changes in kept.values())
        assert len(list(self.backend.scan(Bucket.KEY))) == count

    def resolve(self, request: Request | pb.RangeRequest) -> None:
        """Turn distances into revisions."""
        if isinstance(request, pb.RangeRequest | pb.CompactionRequest):
            if request.revision > 0:
                request.revision = max(1, self.model.revision - request.revision + 2)
        elif isinstance(request, pb.TxnRequest):
            for op in [*request.success, *request.failure]:
                if op.HasField("request_range"):
                    self.resolve(op.request_range)
                elif op.HasField("request_txn"):
                    self.resolve(op.request_txn)

    def ask_model(self, request: Request) -> Response | ErrorSpec:
        model = self.model
        try:
            match request:
                case pb.PutRequest():
                    return model.put(request)
                case pb.DeleteRangeRequest():
                    return model.delete_range(request)
                case pb.TxnRequest():
                    return model.txn(request)
                case pb.CompactionRequest():
                    return model.compact(request)
                case pb.LeaseGrantRequest():
                    return model.grant(request)
                case pb.LeaseRevokeRequest():
                    return model.revoke(request)
        except Refusal as refusal:
            return spec_of(refusal)


def spec_of(refusal: Refusal) -> ErrorSpec:
    spec = getattr(errors, refusal.symbol)
    assert isinstance(spec, ErrorSpec)
    return spec


def validated(request: Request) -> ErrorSpec | None:
    match request:
        case pb.PutRequest():
            return validate.validate_put(request)
        case pb.DeleteRangeRequest():
            return validate.validate_delete(request)
        case pb.TxnRequest():
            return validate.validate_txn(prepare(request, max_ops=MAX_OPS))
        case pb.CompactionRequest():
            return validate.validate_compact(request)
        case _:
            return None


def parsed(kind: type[Response | ErrorSpec], data: bytes, term: int) -> Response:
    """Decode an answer, check its header, and leave of that what the model has too."""
    assert not issubclass(kind, ErrorSpec), f"answered although the model refuses: {data!r}"
    response = kind.FromString(data)
    assert response.SerializeToString(deterministic=True) == data
    header = response.header
    assert (header.cluster_id, header.member_id, header.raft_term) == (CLUSTER, MEMBER, term)
    header.ClearField("cluster_id")
    header.ClearField("member_id")
    header.ClearField("raft_term")
    return response


def compare_events(events: list[Event], changes: list[Change]) -> None:
    assert [(event.mod_revision, event.key) for event in events] == [
        (c.revision, c.key) for c in changes
    ]
    for event, change in zip(events, changes, strict=True):
        expected = kv_pb2.Event()
        if change.now is None:
            expected.type = kv_pb2.Event.DELETE
            expected.kv.key, expected.kv.mod_revision = change.key, change.revision
        else:
            expected.kv.CopyFrom(pair_of(change.key, change.now))
        assert event.body == expected.SerializeToString()
        assert event.is_create == (change.now is not None and change.now.version == 1)
        if event.store_prev is not None and not event.is_create:
            assert change.before is not None
            if change.before.mod != change.revision:
                assert event.store_prev == pair_of(change.key, change.before).SerializeToString()
                expected.prev_kv.CopyFrom(pair_of(change.key, change.before))
                assert event.body_with_prev == expected.SerializeToString()
        if event.is_create:
            assert event.body_with_prev == event.body


def test_the_applier_answers_as_the_model() -> None:
    run_state_machine_as_test(ApplierMachine, settings=settings(stateful_step_count=30))
