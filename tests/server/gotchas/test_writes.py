"""Gotchas 21-50: puts, deletes, transactions, compaction, limits."""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import grpc.aio
import pytest

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.server.endpoint import Endpoint, error_of
from tests.server.gotchas.place import (
    COMPACTED,
    DELETE,
    DUPLICATE_KEY,
    EMPTY_KEY,
    FUTURE_REV,
    LEASE_NOT_FOUND,
    NO_SPACE,
    PUT,
    TOO_MANY_OPS,
    Compare,
    brief,
    delete_op,
    get,
    get_op,
    holds,
    newer_than_3_5_1,
    pair,
    put,
    put_op,
    refused,
    remove,
    revision_of,
    somewhere,
    txn,
    txn_op,
)

MIB = 1 << 20
Unary: TypeAlias = "grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]"


async def test_g021_the_first_put_has_no_previous_pair(endpoint: Endpoint) -> None:
    first = await put(endpoint, b"k", b"1", prev_kv=True)
    assert not first.HasField("prev_kv")
    second = await put(endpoint, b"k", b"2", prev_kv=True)
    assert (second.prev_kv.value, second.prev_kv.mod_revision) == (b"1", 2)
    await endpoint.delete(b"k")
    assert not (await put(endpoint, b"k", b"3", prev_kv=True)).HasField("prev_kv")


async def test_g022_ignore_value_without_a_lease_detaches(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    await put(endpoint, b"k", b"kept", lease=lease)
    await put(endpoint, b"k", b"", ignore_value=True)
    kv = await pair(endpoint, b"k")
    assert (kv.value, kv.lease, kv.version) == (b"kept", 0, 2)
    await endpoint.revoke(lease)
    assert (await get(endpoint, b"k")).count == 1


async def test_g023_ignore_value_with_a_lease_attaches(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    await put(endpoint, b"k", b"kept")
    await put(endpoint, b"k", b"", ignore_value=True, lease=lease)
    kv = await pair(endpoint, b"k")
    assert (kv.value, kv.lease, kv.version) == (b"kept", lease, 2)
    await endpoint.revoke(lease)
    assert (await get(endpoint, b"k")).count == 0


@pytest.mark.parametrize("flag", ["ignore_value", "ignore_lease"])
async def test_g024_ignoring_does_not_mean_asking(endpoint: Endpoint, flag: str) -> None:
    options: dict[str, Any] = {flag: True}
    await put(endpoint, b"k", b"1")
    assert not (await put(endpoint, b"k", b"", **options)).HasField("prev_kv")
    assert (await put(endpoint, b"k", b"", prev_kv=True, **options)).HasField("prev_kv")


async def test_g025_both_flags_only_count_the_version_up(endpoint: Endpoint) -> None:
    lease = await endpoint.grant(60)
    await put(endpoint, b"k", b"kept", lease=lease)
    await put(endpoint, b"k", b"", ignore_value=True, ignore_lease=True)
    kv = await pair(endpoint, b"k")
    assert (kv.value, kv.lease, kv.version, kv.mod_revision) == (b"kept", lease, 2, 3)
    missing = put(endpoint, b"none", b"", ignore_value=True, ignore_lease=True)
    assert await refused(missing) == ("INVALID_ARGUMENT", "etcdserver: key not found")


async def test_g026_an_unknown_lease_leaves_nothing(endpoint: Endpoint) -> None:
    assert await refused(put(endpoint, b"k", lease=99)) == LEASE_NOT_FOUND
    call = txn(endpoint, put_op(b"a"), delete_op(b"b"), put_op(b"c", lease=99))
    await endpoint.put(b"b")
    assert await refused(call) == LEASE_NOT_FOUND
    assert await endpoint.keys(b"\x00") == []
    found = await get(endpoint, b"\x00", b"\x00")
    assert [kv.key for kv in found.kvs] == [b"b"]
    assert found.header.revision == 2


async def test_g027_an_unknown_lease_in_the_other_branch_is_nobodys_business(
    endpoint: Endpoint,
) -> None:
    answer = await txn(endpoint, put_op(b"a"), otherwise=[put_op(b"b", lease=99)])
    assert answer.succeeded
    assert answer.header.revision == 2


async def test_g028_only_the_taken_branch_must_read_what_exists(endpoint: Endpoint) -> None:
    for _ in range(3):
        await endpoint.put(b"k")
    await endpoint.compact(4)
    for revision, status in ((1000, FUTURE_REV), (2, COMPACTED)):
        odd = get_op(b"k", revision=revision)
        assert (await txn(endpoint, put_op(b"a"), otherwise=[odd])).succeeded
        before = await revision_of(endpoint)
        assert await refused(txn(endpoint, put_op(b"b"), odd)) == status
        assert await revision_of(endpoint) == before
    assert (await get(endpoint, b"b")).count == 0


async def test_g029_both_branches_must_have_a_right_shape(endpoint: Endpoint) -> None:
    ok = put_op(b"a")
    assert await refused(txn(endpoint, ok, otherwise=[put_op(b"")])) == EMPTY_KEY
    twice = [put_op(b"b"), put_op(b"b")]
    assert await refused(txn(endpoint, ok, otherwise=twice)) == DUPLICATE_KEY
    never = Compare(key=b"none", target=Compare.VERSION, version=7)
    assert await refused(txn(endpoint, *twice, when=[never], otherwise=[ok])) == DUPLICATE_KEY
    assert await revision_of(endpoint) == 1


async def test_g030_deleting_nothing_changes_nothing(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    answer = await remove(endpoint, b"none", prev_kv=True)
    assert (answer.deleted, list(answer.prev_kvs), answer.header.revision) == (0, [], 2)
    inside = await txn(endpoint, delete_op(b"none"))
    assert inside.header.revision == 2
    assert inside.responses[0].response_delete_range.header.revision == 2
    assert await endpoint.put(b"k") == 3


async def test_g031_one_delete_is_one_revision(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    await watch.created(b"k", b"l", filters=[rpc_pb2.WatchCreateRequest.NOPUT])
    for n in range(4):
        await endpoint.put(b"k%d" % n)
    answer = await remove(endpoint, b"k", b"l")
    assert (answer.deleted, answer.header.revision) == (4, 6)
    assert brief(await watch.response()) == [(DELETE, b"k%d" % n, 6) for n in range(4)]


async def test_g032_deletions_carry_key_and_revision_only(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    lease = await endpoint.grant(60)
    await put(endpoint, b"k", b"value", lease=lease)
    await watch.created(b"k")
    await endpoint.delete(b"k")
    (event,) = (await watch.response()).events
    assert [field.name for field, _ in event.kv.ListFields()] == ["key", "mod_revision"]
    assert (event.kv.key, event.kv.mod_revision) == (b"k", 3)
    assert not event.HasField("prev_kv")


async def test_g033_a_key_that_comes_again_is_new(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    await endpoint.put(b"k")
    await endpoint.delete(b"k")
    await endpoint.put(b"k")
    kv = await pair(endpoint, b"k")
    assert (kv.version, kv.create_revision, kv.mod_revision) == (1, 5, 5)


async def test_g034_a_missing_key_is_all_zeros_and_has_no_value(endpoint: Endpoint) -> None:
    for target, operand in (
        (Compare.VERSION, "version"),
        (Compare.CREATE, "create_revision"),
        (Compare.MOD, "mod_revision"),
        (Compare.LEASE, "lease"),
    ):
        options: dict[str, Any] = {operand: 0}
        assert await holds(endpoint, Compare(key=b"none", target=target, **options))
        options = {operand: 1}
        assert not await holds(endpoint, Compare(key=b"none", target=target, **options))
    for result in (Compare.EQUAL, Compare.NOT_EQUAL, Compare.GREATER, Compare.LESS):
        for value in (b"", b"x"):
            compare = Compare(key=b"none", target=Compare.VALUE, value=value, result=result)
            assert not await holds(endpoint, compare)


async def test_g035_over_a_range_every_key_must_match(endpoint: Endpoint) -> None:
    def version(number: int) -> Compare:
        return Compare(key=b"k", range_end=b"l", target=Compare.VERSION, version=number)

    def value(result: Compare.CompareResult.ValueType) -> Compare:
        options: dict[str, Any] = {"target": Compare.VALUE, "value": b"other", "result": result}
        return Compare(key=b"k", range_end=b"l", **options)

    assert await holds(endpoint, version(0))
    assert not await holds(endpoint, version(1))
    assert not await holds(endpoint, value(Compare.NOT_EQUAL))
    await endpoint.put(b"k1")
    await endpoint.put(b"k2")
    assert await holds(endpoint, version(1), value(Compare.NOT_EQUAL))
    await endpoint.put(b"k2")
    assert not await holds(endpoint, version(1))
    assert not await holds(endpoint, version(2))


async def test_g036_no_key_is_newer_than(endpoint: Endpoint) -> None:
    def older_than(revision: int) -> Compare:
        return Compare(
            key=b"p/",
            range_end=b"p0",
            target=Compare.CREATE,
            result=Compare.LESS,
            create_revision=revision,
        )

    assert await holds(endpoint, older_than(1))
    assert not await holds(endpoint, older_than(0))
    await endpoint.put(b"p/a")
    await endpoint.put(b"p/b")
    assert await holds(endpoint, older_than(4))
    assert not await holds(endpoint, older_than(3))


async def test_g037_nested_compares_look_at_the_state_before(endpoint: Endpoint) -> None:
    there = Compare(key=b"k", target=Compare.VERSION, version=1)
    nested = txn_op(put_op(b"saw"), compare=[there], failure=[put_op(b"did not see")])
    answer = await txn(endpoint, put_op(b"k"), nested)
    assert not answer.responses[1].response_txn.succeeded
    assert (await get(endpoint, b"did not see")).count == 1


async def test_g038_parts_have_only_a_revision_in_their_header(endpoint: Endpoint) -> None:
    answer = await txn(endpoint, put_op(b"k"), get_op(b"k"), delete_op(b"x"), txn_op(get_op(b"k")))
    assert answer.header.cluster_id
    assert answer.header.member_id
    assert answer.header.raft_term
    written, read, deleted, nested = answer.responses
    for header in (
        written.response_put.header,
        read.response_range.header,
        deleted.response_delete_range.header,
        nested.response_txn.responses[0].response_range.header,
    ):
        assert header == rpc_pb2.ResponseHeader(revision=2)
    assert nested.response_txn.HasField("header")
    assert nested.response_txn.header == rpc_pb2.ResponseHeader()


async def test_g039_a_read_in_a_txn_tells_the_revision_so_far(endpoint: Endpoint) -> None:
    await endpoint.put(b"k", b"old")
    answer = await txn(endpoint, get_op(b"k"), put_op(b"k", b"new"), get_op(b"k"))
    before, _, after = answer.responses
    assert before.response_range.header.revision == 2
    assert before.response_range.kvs[0].value == b"old"
    assert after.response_range.header.revision == answer.header.revision == 3
    assert after.response_range.kvs[0].value == b"new"


@pytest.mark.parametrize("where", ["when", "success", "otherwise"])
async def test_g040_each_list_may_have_128(endpoint: Endpoint, where: str) -> None:
    def call(count: int) -> Coroutine[Any, Any, object]:
        compares = [Compare(key=b"c%d" % n) for n in range(count)]
        ops = [put_op(b"k%d" % n) for n in range(count)]
        few, enough = compares[:1], ops[:128]
        if where == "when":
            return txn(endpoint, *enough, when=compares, otherwise=enough)
        if where == "success":
            return txn(endpoint, *ops, when=few, otherwise=enough)
        return txn(endpoint, *enough, when=few, otherwise=ops)

    await call(128)
    assert await refused(call(129)) == TOO_MANY_OPS


async def test_g040_nested_txns_get_what_their_parent_leaves(endpoint: Endpoint) -> None:
    nested = [txn_op(*(put_op(b"%d/%d" % (side, n)) for n in range(126))) for side in (1, 2)]
    assert (await txn(endpoint, *nested)).succeeded
    too_many = txn_op(*(put_op(b"%d" % n) for n in range(127)))
    assert await refused(txn(endpoint, too_many, get_op(b"k"))) == TOO_MANY_OPS
    assert (await txn(endpoint, too_many)).succeeded


async def raft_index(endpoint: Endpoint) -> int:
    answer = await endpoint.call(rpcs.MAINTENANCE_STATUS, rpc_pb2.StatusRequest())
    return answer.raftIndex


async def test_g041_txns_without_operations_are_answered_at_once(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    index = await raft_index(endpoint)
    empty = await txn(endpoint)
    assert (empty.succeeded, empty.header.revision, list(empty.responses)) == (True, 2, [])
    assert not await holds(endpoint, Compare(key=b"k", target=Compare.VERSION, version=5))
    assert await raft_index(endpoint) == index


async def test_g042_a_nested_txn_is_always_a_write(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    index = await raft_index(endpoint)
    await txn(endpoint, get_op(b"k"), otherwise=[get_op(b"k")])
    assert await raft_index(endpoint) == index
    answer = await txn(endpoint, txn_op(get_op(b"k")))
    assert answer.header.revision == 2
    assert await raft_index(endpoint) == index + 1


A = b"a"
DELETE_FROM = delete_op(A, b"\x00")


@pytest.mark.parametrize(
    ("ops", "accepted"),
    [
        ([put_op(A), put_op(A)], False),
        ([put_op(A), delete_op(A, b"b")], False),
        ([delete_op(A, b"b"), put_op(A)], False),
        ([delete_op(A), delete_op(A)], True),
        ([delete_op(A, b"c"), delete_op(b"b", b"d")], True),
        ([txn_op(put_op(A), failure=[put_op(A)])], True),
        ([txn_op(put_op(A), failure=[delete_op(A)])], True),
        ([put_op(A), txn_op(delete_op(A))], False),
        ([txn_op(delete_op(A)), txn_op(put_op(A))], False),
        ([txn_op(put_op(A)), txn_op(delete_op(A))], True),
        ([put_op(A), DELETE_FROM], True),
        ([DELETE_FROM, put_op(A)], True),
    ],
)
async def test_g044_which_double_changes_are_seen(
    endpoint: Endpoint, ops: list[rpc_pb2.RequestOp], accepted: bool
) -> None:
    if accepted:
        assert (await txn(endpoint, *ops)).succeeded
        assert (await txn(endpoint, put_op(A), otherwise=ops)).succeeded
    else:
        assert await refused(txn(endpoint, *ops)) == DUPLICATE_KEY


async def test_g045_two_limits_of_size(endpoint: Endpoint) -> None:
    await put(endpoint, b"k", bytes(3 * MIB // 2 - 100))
    too_large = ("INVALID_ARGUMENT", "etcdserver: request is too large")
    assert await refused(put(endpoint, b"k", bytes(3 * MIB // 2))) == too_large
    size = rpc_pb2.PutRequest(key=b"k", value=bytes(2 * MIB)).ByteSize()
    assert await refused(put(endpoint, b"k", bytes(2 * MIB))) == (
        "RESOURCE_EXHAUSTED",
        f"grpc: received message larger than max ({size} vs. {2 * MIB})",
    )


async def test_g046_answers_may_be_larger_than_a_client_expects(ours: Endpoint) -> None:
    for n in range(5):
        await put(ours, b"k%d" % n, bytes(MIB))
    whole = await get(ours, b"k", b"l")
    assert [len(kv.value) for kv in whole.kvs] == [MIB] * 5
    (address,) = ours.server.client_addresses
    async with grpc.aio.insecure_channel(str(address)) as usual:
        call: Unary = usual.unary_unary(rpcs.KV_RANGE.path)
        request = rpc_pb2.RangeRequest(key=b"k", range_end=b"l").SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(request)
    assert error_of(caught.value)[0] == "RESOURCE_EXHAUSTED"


async def fill_up(endpoint: Endpoint) -> None:
    """Put until there is no space."""
    for n in range(50):
        try:
            await put(endpoint, b"big%d" % n, bytes(MIB))
        except grpc.aio.AioRpcError as error:
            assert error_of(error) == NO_SPACE  # noqa: PT017 - the loop ends with the first one
            return
    pytest.fail("the quota was never reached")


async def test_g047_without_space_only_growth_is_refused(tmp_path: Path) -> None:
    async with somewhere(tmp_path, quota_bytes=6 * MIB) as endpoint:
        lease = await endpoint.grant(60)
        await put(endpoint, b"leased", lease=lease)
        await fill_up(endpoint)
        nested = txn_op(failure=[put_op(b"k")])
        for call in (
            put(endpoint, b"k", b""),
            put(endpoint, b"big0", b"smaller"),
            txn(endpoint, put_op(b"k")),
            txn(endpoint, get_op(b"k"), otherwise=[put_op(b"k")]),
            txn(endpoint, nested),
            endpoint.grant(60),
        ):
            assert await refused(call) == NO_SPACE
        assert (await get(endpoint, b"big0")).count == 1
        assert (await remove(endpoint, b"big0")).deleted == 1
        revision = await endpoint.revoke(lease)
        assert (await get(endpoint, b"leased")).count == 0
        await endpoint.compact(revision)


@newer_than_3_5_1
async def test_g047_a_txn_that_puts_nothing_needs_no_space(tmp_path: Path) -> None:
    async with somewhere(tmp_path, quota_bytes=6 * MIB) as endpoint:
        await fill_up(endpoint)
        answer = await txn(endpoint, delete_op(b"big1"), get_op(b"big0"))
        assert [part.WhichOneof("response") for part in answer.responses] == [
            "response_delete_range",
            "response_range",
        ]


async def test_g048_the_alarm_stays_until_it_is_disarmed(tmp_path: Path) -> None:
    async with somewhere(tmp_path, quota_bytes=6 * MIB) as endpoint:
        await fill_up(endpoint)
        gone = await remove(endpoint, b"big", b"bih")
        compaction = rpc_pb2.CompactionRequest(revision=gone.header.revision, physical=True)
        await endpoint.call(rpcs.KV_COMPACT, compaction)
        await endpoint.call(rpcs.MAINTENANCE_DEFRAGMENT, rpc_pb2.DefragmentRequest())
        assert await refused(put(endpoint, b"k")) == NO_SPACE
        asked = await endpoint.call(rpcs.MAINTENANCE_ALARM, rpc_pb2.AlarmRequest())
        (alarm,) = asked.alarms
        assert alarm.alarm == rpc_pb2.NOSPACE
        disarm = rpc_pb2.AlarmRequest(
            action=rpc_pb2.AlarmRequest.DEACTIVATE, memberID=alarm.memberID, alarm=alarm.alarm
        )
        await endpoint.call(rpcs.MAINTENANCE_ALARM, disarm)
        await put(endpoint, b"k")


async def test_g049_the_second_compaction_at_a_revision_fails(endpoint: Endpoint) -> None:
    for _ in range(3):
        await endpoint.put(b"k")
    await endpoint.compact(3)
    assert await refused(endpoint.compact(3)) == COMPACTED
    assert await refused(endpoint.compact(2)) == COMPACTED
    await endpoint.compact(4)


async def test_g050_compacting_is_no_change(endpoint: Endpoint) -> None:
    watch = endpoint.watch()
    await watch.created(b"\x00", b"\x00")
    for _ in range(3):
        await endpoint.put(b"k")
    answer = await endpoint.call(rpcs.KV_COMPACT, rpc_pb2.CompactionRequest(revision=3))
    assert answer.header.revision == await revision_of(endpoint) == 4
    await endpoint.delete(b"k")
    seen = [brief(await watch.response()) for _ in range(4)]
    assert seen == [[(PUT, b"k", n)] for n in (2, 3, 4)] + [[(DELETE, b"k", 5)]]
