"""Entries become state: answers, order, skipping, batches for the backend."""

from __future__ import annotations

import pytest

from coord.runtime import InvariantViolation
from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.apply import Applier
from coord_server.errors import Refused
from coord_server.mvcc.store import StoreLimits
from coord_server.ops import BrokenBatch, OpKind, decode_batch, encode_batch, encode_origin
from coord_server.storage.backend import Bucket
from coord_server.storage.memory_backend import MemoryBackend

STAMP = fast.HeaderStamp(1, 2)


def put_op(key: bytes, value: bytes = b"v", lease: int = 0) -> tuple[int, bytes]:
    return OpKind.PUT, fast.encode_put(key, value, lease)


def meta(backend: MemoryBackend) -> dict[bytes, int]:
    return {
        key: int.from_bytes(value, "big", signed=True) for key, value in backend.scan(Bucket.META)
    }


def flush(applier: Applier, backend: MemoryBackend) -> None:
    batch = applier.take_batch()
    assert batch is not None
    backend.write(batch)
    applier.flushed()


def test_batches_of_operations_keep_bytes_and_order() -> None:
    ops = [
        (OpKind.PUT, b""),
        (OpKind.TXN, b"x" * 127),
        (OpKind.PUT, b"y" * 128),
        (200, b"z" * 70_000),
    ]
    data = encode_batch(ops)
    assert decode_batch(data) == ops
    assert decode_batch(b"") == []
    boundaries = {len(encode_batch(ops[:count])) for count in range(len(ops) + 1)}
    for cut in (1, 2, 100, 131, 200, len(data) - 1):
        if cut not in boundaries:
            with pytest.raises(BrokenBatch):
                decode_batch(data[:cut])


def test_every_operation_has_its_answer_in_order() -> None:
    applier = Applier(MemoryBackend(), STAMP)
    compaction = (OpKind.COMPACT, pb.CompactionRequest(revision=99).SerializeToString())
    applied = applier.apply(
        1,
        5,
        encode_batch([put_op(b"a"), compaction, put_op(b"b"), put_op(b"c", lease=9)]),
        answers=True,
    )
    first, refused, third, unknown_lease = applied.results
    assert isinstance(first, bytes)
    assert isinstance(third, bytes)
    header = pb.PutResponse.FromString(first).header
    assert (header.cluster_id, header.member_id, header.revision, header.raft_term) == (1, 2, 2, 5)
    assert pb.PutResponse.FromString(third).header.revision == 3
    assert refused is errors.FUTURE_REV
    assert unknown_lease is errors.LEASE_NOT_FOUND
    assert [(event.key, event.mod_revision) for event in applied.events] == [(b"a", 2), (b"b", 3)]


def test_without_answers_the_state_is_the_same() -> None:
    one, two = Applier(MemoryBackend(), STAMP), Applier(MemoryBackend(), STAMP)
    data = encode_batch([put_op(b"a"), put_op(b"b", lease=9), put_op(b"a")])
    with_answers = one.apply(1, 1, data, answers=True)
    without = two.apply(1, 1, data, answers=False)
    assert without.results == []
    assert [e.body for e in without.events] == [e.body for e in with_answers.events]
    batches = [applier.take_batch() for applier in (one, two)]
    assert batches[0] is not None
    assert batches[1] is not None
    assert batches[0].puts == batches[1].puts


def test_an_applied_entry_is_passed_over() -> None:
    applier = Applier(MemoryBackend(), STAMP)
    data = encode_batch([put_op(b"a")])
    applier.apply(3, 1, data, answers=True)
    for index in (1, 3):
        assert applier.apply(index, 1, data, answers=True) == ([], [], [])
    assert (applier.applied_index, applier.store.revision) == (3, 2)


def test_an_empty_entry_moves_index_and_term() -> None:
    backend = MemoryBackend()
    applier = Applier(backend, STAMP)
    assert applier.apply(1, 4, b"", answers=True) == ([], [], [])
    flush(applier, backend)
    assert meta(backend) == {b"applied_index": 1, b"applied_term": 4}
    again = Applier(backend, STAMP)
    assert (again.applied_index, again.term) == (1, 4)


def test_what_cannot_be_understood_stops_the_member() -> None:
    applier = Applier(MemoryBackend(), STAMP)
    with pytest.raises(InvariantViolation, match="kind 99 is unknown"):
        applier.apply(1, 1, encode_batch([(99, b"")]), answers=False)
    with pytest.raises(BrokenBatch):
        applier.apply(1, 1, b"\x01\x05abc", answers=False)
    with pytest.raises(InvariantViolation, match="no PutRequest"):
        applier.apply(1, 1, encode_batch([(OpKind.PUT, b"\xff")]), answers=False)
    applier.apply(1, 2, b"", answers=False)
    with pytest.raises(InvariantViolation, match="terms"):
        applier.apply(2, 1, b"", answers=False)


def test_a_put_that_is_not_plain_is_understood() -> None:
    applier = Applier(MemoryBackend(), STAMP)
    # The value before the key: legal protobuf that no client writes.
    payload = b"\x12\x01v\x0a\x01k"
    applier.apply(1, 1, encode_batch([(OpKind.PUT, payload)]), answers=False)
    pair = applier.store.get(b"k")
    assert pair is not None
    assert pair.value == b"v"


def test_a_batch_holds_all_the_backend_lacks() -> None:
    backend = MemoryBackend()
    applier = Applier(backend, STAMP)
    assert applier.take_batch() is None
    assert applier.pending_ops == 0
    grant = (OpKind.LEASE_GRANT, pb.LeaseGrantRequest(ID=7, TTL=60).SerializeToString())
    applier.apply(5, 2, encode_batch([grant, put_op(b"a", lease=7), put_op(b"b")]), answers=False)
    assert applier.pending_ops == 3
    flush(applier, backend)
    assert applier.pending_ops == 0
    assert applier.take_batch() is None
    assert meta(backend) == {b"applied_index": 5, b"applied_term": 2, b"current_revision": 3}
    again = Applier(backend, STAMP)
    assert again.lessor.keys(7) == [b"a"]
    assert again.store.keys(b"\x00", b"\x00") == [b"a", b"b"]
    revoke = (OpKind.LEASE_REVOKE, pb.LeaseRevokeRequest(ID=7).SerializeToString())
    compact = (OpKind.COMPACT, pb.CompactionRequest(revision=3).SerializeToString())
    again.apply(6, 2, encode_batch([revoke, compact]), answers=False)
    flush(again, backend)
    assert list(backend.scan(Bucket.LEASE)) == []
    assert meta(backend)[b"scheduled_compact_revision"] == 3
    assert b"compact_revision" not in meta(backend)
    assert not again.store.compact_some(100)
    flush(again, backend)
    assert meta(backend)[b"compact_revision"] == 3


def test_one_batch_at_a_time() -> None:
    applier = Applier(MemoryBackend(), STAMP)
    applier.apply(1, 1, encode_batch([put_op(b"a")]), answers=False)
    applier.take_batch()
    applier.apply(2, 1, encode_batch([put_op(b"b")]), answers=False)
    with pytest.raises(InvariantViolation, match="one batch"):
        applier.take_batch()
    applier.flushed()
    assert applier.take_batch() is not None


def test_a_checkpoint_is_kept_and_an_unknown_one_passed_over() -> None:
    backend = MemoryBackend()
    applier = Applier(backend, STAMP)
    grant = (OpKind.LEASE_GRANT, pb.LeaseGrantRequest(ID=7, TTL=600).SerializeToString())
    checkpoint = pb.LeaseCheckpointRequest(
        checkpoints=[
            pb.LeaseCheckpoint(ID=7, remaining_TTL=100),
            pb.LeaseCheckpoint(ID=8, remaining_TTL=5),
        ]
    )
    ops = [grant, (OpKind.LEASE_CHECKPOINT, checkpoint.SerializeToString())]
    applier.apply(1, 1, encode_batch(ops), answers=False)
    flush(applier, backend)
    again = Applier(backend, STAMP)
    assert again.lessor.ids() == [7]
    again.lessor.promote(now=0.0, extend=0.0)
    assert again.lessor.remaining(7, 0.0) == 100.0


def test_small_leases_are_raised_to_the_minimum() -> None:
    applier = Applier(MemoryBackend(), STAMP, min_ttl=9)
    grant = (OpKind.LEASE_GRANT, pb.LeaseGrantRequest(ID=7, TTL=1).SerializeToString())
    (answer,) = applier.apply(1, 1, encode_batch([grant]), answers=True).results
    assert isinstance(answer, bytes)
    assert pb.LeaseGrantResponse.FromString(answer).TTL == 9


def test_records_beyond_the_cache_are_read_back() -> None:
    backend = MemoryBackend()
    applier = Applier(backend, STAMP, limits=StoreLimits(record_cache_bytes=2_000))
    keys = [b"key%03d" % number for number in range(100)]
    for index, key in enumerate(keys, start=1):
        applier.apply(index, 1, encode_batch([put_op(key, key * 20)]), answers=False)
        if index % 10 == 0:
            flush(applier, backend)
    for _ in range(2):
        for key in keys:
            pair = applier.store.get(key)
            assert pair is not None
            assert pair.value == key * 20
    whole = pb.RangeResponse.FromString(
        applier.store.range_body(pb.RangeRequest(key=b"key", range_end=b"kez"))
    )
    assert [kv.value for kv in whole.kvs] == [key * 20 for key in keys]


def test_typed_reads() -> None:
    applier = Applier(MemoryBackend(), STAMP)
    ops = [
        put_op(b"lock/c", b"1"),
        put_op(b"lock/a", b"2"),
        put_op(b"lock/b", b"3"),
        put_op(b"lock/c", b"4"),
    ]
    applier.apply(1, 1, encode_batch(ops), answers=False)
    store = applier.store
    prefix = (b"lock/", b"lock0")
    first, last = store.first_created(*prefix), store.last_created(*prefix)
    assert first is not None
    assert last is not None
    assert (first.key, first.value, first.create_revision, first.mod_revision, first.version) == (
        b"lock/c",
        b"4",
        2,
        5,
        2,
    )
    assert last.key == b"lock/b"
    before = store.last_created(*prefix, max_create=3)
    assert before is not None
    assert before.key == b"lock/a"
    assert store.first_created(*prefix, max_create=1) is None
    assert store.first_created(b"x", b"y") is None
    assert (store.count(*prefix), store.keys(*prefix)) == (3, [b"lock/a", b"lock/b", b"lock/c"])
    assert (store.count(b"lock/a", b""), store.count(b"none", b"")) == (1, 0)
    assert store.get(b"none") is None


def test_a_refusal_survives_being_pickled() -> None:
    import pickle

    refused = pickle.loads(pickle.dumps(Refused(errors.COMPACTED)))
    assert isinstance(refused, Refused)
    assert (refused.spec, refused.code, refused.message) == (
        errors.COMPACTED,
        errors.COMPACTED.code,
        errors.COMPACTED.message,
    )


def test_forwarded_operations_find_their_answers() -> None:
    applier = Applier(MemoryBackend(), STAMP)
    one = (OpKind.ORIGIN, encode_origin(7, 70, 1))
    two = (OpKind.ORIGIN, encode_origin(8, 80, (1 << 64) - 1))
    empty = (OpKind.ORIGIN, encode_origin(9, 90, 3))
    refused = put_op(b"x", lease=9)
    data = encode_batch(
        [put_op(b"own"), one, put_op(b"a"), refused, put_op(b"b"), empty, two, put_op(b"c")]
    )
    applied = applier.apply(1, 5, data, answers=True)
    assert applied.origins == [(7, 70, 1, 1, 4), (9, 90, 3, 4, 4), (8, 80, (1 << 64) - 1, 4, 5)]
    assert len(applied.results) == 5
    assert applied.results[2] is errors.LEASE_NOT_FOUND
    last = applied.results[4]
    assert isinstance(last, bytes)
    assert pb.PutResponse.FromString(last).header.revision == applier.store.revision
    assert [event.key for event in applied.events] == [b"own", b"a", b"b", b"c"]


def test_a_marker_changes_nothing() -> None:
    plain, marked = Applier(MemoryBackend(), STAMP), Applier(MemoryBackend(), STAMP)
    marker = (OpKind.ORIGIN, encode_origin(1, 2, 3))
    plain.apply(1, 1, encode_batch([put_op(b"a")]), answers=False)
    applied = marked.apply(1, 1, encode_batch([marker, put_op(b"a")]), answers=False)
    assert (applied.results, applied.origins) == ([], [(1, 2, 3, 0, 1)])
    batches = [applier.take_batch() for applier in (plain, marked)]
    assert batches[0] is not None
    assert batches[1] is not None
    assert batches[0].puts == batches[1].puts
    with pytest.raises(BrokenBatch, match="marker"):
        marked.apply(2, 1, encode_batch([(OpKind.ORIGIN, b"short")]), answers=False)
