"""Gotchas 1-20: reads and revisions."""

from __future__ import annotations

import pytest

from coord.wire import methods as rpcs
from coord.wire import rpc_pb2
from tests.server.endpoint import Endpoint
from tests.server.gotchas.place import (
    COMPACTED,
    EMPTY_KEY,
    FUTURE_REV,
    Range,
    get,
    get_op,
    keys,
    put_op,
    refused,
    revision_of,
    together,
    txn,
)


async def fill(endpoint: Endpoint, *pairs: tuple[bytes, bytes]) -> None:
    for key, value in pairs:
        await endpoint.put(key, value)


async def fill_five(endpoint: Endpoint) -> None:
    await fill(endpoint, *((b"k%d" % n, b"%d" % n) for n in range(5)))


async def test_g001_a_fresh_store_has_revision_1(endpoint: Endpoint) -> None:
    assert await revision_of(endpoint) == 1
    assert await endpoint.put(b"k") == 2


async def test_g002_revision_1_is_a_time_before_the_first_key(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    answer = await get(endpoint, b"k", revision=1)
    assert (list(answer.kvs), answer.count, answer.more) == ([], 0, False)
    assert await refused(get(endpoint, b"k", revision=3)) == FUTURE_REV


async def test_g003_negative_revisions_mean_latest_but_not_in_a_txn(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    for revision in (-1, -2, -(2**63)):
        assert keys(await get(endpoint, b"k", revision=revision)) == [b"k"]
    # Before any compaction the compact revision is -1.
    (answer,) = (await txn(endpoint, get_op(b"k", revision=-1))).responses
    assert answer.response_range.count == 1
    assert await refused(txn(endpoint, get_op(b"k", revision=-2))) == COMPACTED
    await endpoint.compact(2)
    assert keys(await get(endpoint, b"k", revision=-1)) == [b"k"]
    assert await refused(txn(endpoint, get_op(b"k", revision=-1))) == COMPACTED


async def test_g004_a_read_of_the_past_tells_the_present_revision(endpoint: Endpoint) -> None:
    for value in (b"1", b"2", b"3"):
        await endpoint.put(b"k", value)
    answer = await get(endpoint, b"k", revision=2)
    assert (answer.kvs[0].value, answer.header.revision) == (b"1", 4)


async def test_g005_the_header_is_that_of_the_state_that_was_read(endpoint: Endpoint) -> None:
    # The only key that is ever written tells in its own revision which state was read.
    await endpoint.put(b"k")

    async def write() -> None:
        for _ in range(150):
            await endpoint.put(b"k")

    async def read() -> None:
        for _ in range(150):
            answer = await get(endpoint, b"k")
            assert answer.header.revision == answer.kvs[0].mod_revision
            answer = await txn(endpoint, get_op(b"k"))
            inner = answer.responses[0].response_range
            assert answer.header.revision == inner.kvs[0].mod_revision == inner.header.revision

    await together(write(), write(), read(), read())


async def test_g006_more_is_only_told_of_what_is_left(endpoint: Endpoint) -> None:
    await fill(endpoint, (b"a", b""), (b"b", b""), (b"c", b""))
    for limit, more in ((2, True), (3, False), (4, False)):
        answer = await get(endpoint, b"a", b"z", limit=limit)
        assert (len(answer.kvs), answer.more, answer.count) == (min(limit, 3), more, 3)


async def test_g007_count_only_counts_everything(endpoint: Endpoint) -> None:
    await fill_five(endpoint)
    answer = await get(endpoint, b"k", b"l", limit=1, count_only=True)
    assert (answer.count, list(answer.kvs), answer.more) == (5, [], False)


async def test_g008_count_only_beats_keys_only(endpoint: Endpoint) -> None:
    await fill_five(endpoint)
    answer = await get(endpoint, b"k", b"l", keys_only=True, count_only=True)
    assert (answer.count, list(answer.kvs), answer.more) == (5, [], False)


async def test_g009_keys_only_sorts_by_the_values_it_strips(endpoint: Endpoint) -> None:
    await fill(endpoint, (b"a", b"3"), (b"b", b"1"), (b"c", b"2"))
    answer = await get(
        endpoint, b"a", b"z", keys_only=True, sort_order=Range.ASCEND, sort_target=Range.VALUE
    )
    assert keys(answer) == [b"b", b"c", b"a"]
    assert not any(kv.value for kv in answer.kvs)


@pytest.mark.parametrize("limit", [0, -1, -(2**63)])
async def test_g010_no_positive_limit_is_no_limit(endpoint: Endpoint, limit: int) -> None:
    await fill_five(endpoint)
    answer = await get(endpoint, b"k", b"l", limit=limit)
    assert (len(answer.kvs), answer.more) == (5, False)


async def test_g011_filters_leave_the_count_alone(endpoint: Endpoint) -> None:
    await fill_five(endpoint)  # revisions 2 to 6
    for bounds, left in (
        ({"min_mod_revision": 3}, 4),
        ({"max_mod_revision": 3}, 2),
        ({"min_create_revision": 6}, 1),
        ({"max_create_revision": 2}, 1),
        ({"min_mod_revision": 4, "max_create_revision": 5}, 2),
    ):
        answer = await get(endpoint, b"k", b"l", **bounds)
        assert (len(answer.kvs), answer.count) == (left, 5)


async def test_g012_more_counts_what_the_filters_left(endpoint: Endpoint) -> None:
    await fill_five(endpoint)
    for limit, more in ((2, True), (3, False)):
        answer = await get(endpoint, b"k", b"l", limit=limit, min_mod_revision=4)
        assert (keys(answer)[0], len(answer.kvs), answer.more) == (b"k2", limit, more)
        assert answer.count == 5


async def test_g013_a_target_without_an_order_sorts_what_the_limit_left(endpoint: Endpoint) -> None:
    for key, value in ((b"s4", b"0"), (b"s1", b"9"), (b"s3", b"1"), (b"s2", b"8")):
        await endpoint.put(key, value)
    created = await get(endpoint, b"s", b"t", sort_target=Range.CREATE)
    assert keys(created) == [b"s4", b"s1", b"s3", b"s2"]
    # limit + 1 keys in the order of keys are taken, sorted, and cut.
    first = await get(endpoint, b"s", b"t", limit=1, sort_target=Range.VALUE)
    assert (keys(first), first.more) == ([b"s2"], True)
    whole = await get(
        endpoint, b"s", b"t", limit=1, sort_target=Range.VALUE, sort_order=Range.ASCEND
    )
    assert keys(whole) == [b"s4"]
    # A filter keeps the limit from being pushed down.
    kept = await get(endpoint, b"s", b"t", limit=1, sort_target=Range.VALUE, min_mod_revision=1)
    assert keys(kept) == [b"s4"]


async def test_g014_keys_are_ordered_by_unsigned_bytes(endpoint: Endpoint) -> None:
    names = [b"\x00", b"\x7f", b"foo", b"foo/abc", b"fop", b"\x80", b"\xff", b"\xff\xff"]
    for name in reversed(names):
        await endpoint.put(name)
    assert keys(await get(endpoint, b"\x00", b"\x00")) == sorted(names)
    assert keys(await get(endpoint, b"foo", b"fop")) == [b"foo", b"foo/abc"]
    assert keys(await get(endpoint, b"\x80", b"\x00")) == [b"\x80", b"\xff", b"\xff\xff"]


@pytest.mark.parametrize(("key", "end"), [(b"x", b"x"), (b"x", b"b")])
async def test_g015_ranges_that_hold_nothing_are_empty(
    endpoint: Endpoint, key: bytes, end: bytes
) -> None:
    await fill(endpoint, (b"b", b""), (b"x", b""))
    answer = await get(endpoint, key, end)
    assert (list(answer.kvs), answer.count, answer.more) == ([], 0, False)


async def test_g016_a_zero_byte_alone_is_a_key(endpoint: Endpoint) -> None:
    await endpoint.put(b"k")
    assert (await get(endpoint, b"\x00")).count == 0
    await endpoint.put(b"\x00")
    assert keys(await get(endpoint, b"\x00")) == [b"\x00"]


async def test_g017_an_empty_key_is_refused_whatever_the_end(endpoint: Endpoint) -> None:
    assert await refused(get(endpoint, b"", b"\x00")) == EMPTY_KEY
    assert await refused(get(endpoint, b"", b"z")) == EMPTY_KEY
    assert await refused(endpoint.delete(b"", b"\x00")) == EMPTY_KEY


async def test_g019_the_compact_revision_can_still_be_read(endpoint: Endpoint) -> None:
    for value in (b"2", b"3", b"4", b"5"):
        await endpoint.put(b"k", value)
    await endpoint.compact(4)
    for revision in (2, 3):
        assert await refused(get(endpoint, b"k", revision=revision)) == COMPACTED
        assert await refused(txn(endpoint, get_op(b"k", revision=revision))) == COMPACTED
    for revision, value in ((4, b"4"), (5, b"5"), (0, b"5")):
        assert (await get(endpoint, b"k", revision=revision)).kvs[0].value == value


async def test_g020_compacting_the_present_keeps_all_keys(endpoint: Endpoint) -> None:
    await fill_five(endpoint)
    await endpoint.put(b"k0", b"again")
    await endpoint.delete(b"k4")
    request = rpc_pb2.CompactionRequest(revision=8, physical=True)
    await endpoint.call(rpcs.KV_COMPACT, request)
    for serializable in (False, True):
        for revision in (0, 8):
            answer = await get(endpoint, b"k", b"l", serializable=serializable, revision=revision)
            told = [(kv.key, kv.value, kv.version) for kv in answer.kvs]
            assert told[:2] == [(b"k0", b"again", 2), (b"k1", b"1", 1)]
            assert answer.count == 4
    assert (await txn(endpoint, put_op(b"k4"))).header.revision == 9
