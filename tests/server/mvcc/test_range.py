"""Range, by the rows of its option table and by the API's known traps (numbers of spec core 9)."""

from __future__ import annotations

import pytest

from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc.store import StoreLimits
from tests.server.mvcc.driver import CLUSTER_ID, MEMBER_ID, TERM, TO_END, Driver

R = pb.RangeRequest


def everything(**options: int) -> pb.RangeRequest:
    request = R(key=b"\x00", range_end=TO_END)
    for name, value in options.items():
        setattr(request, name, value)
    return request


@pytest.fixture(params=["cached", "evicted", "flushed"])
def five(request: pytest.FixtureRequest) -> Driver:
    """Keys a..e at revisions 2..6, values 5..1; with records in each of the places they can be."""
    small = StoreLimits(record_cache_bytes=0, recent_events=1)
    driver = Driver(limits=None if request.param == "cached" else small)
    for place, key in enumerate([b"a", b"b", b"c", b"d", b"e"]):
        driver.put(key, b"%d" % (5 - place))
    if request.param == "flushed":
        driver.flush()
    return driver


def test_gotcha_1_fresh_store_is_at_revision_1() -> None:
    driver = Driver()
    header = driver.get(b"a").header
    assert (header.cluster_id, header.member_id, header.revision, header.raft_term) == (
        CLUSTER_ID,
        MEMBER_ID,
        1,
        TERM,
    )
    assert driver.put(b"a").header.revision == 2


def test_gotcha_2_reading_before_the_first_write(five: Driver) -> None:
    response = five.range(everything(revision=1))
    assert (list(response.kvs), response.count) == ([], 0)


def test_gotcha_3_negative_revision_is_now(five: Driver) -> None:
    for revision in (-1, -100):
        assert five.range(everything(revision=revision)).count == 5
    five.compact(5)
    assert five.range(everything(revision=-1)).count == 5


def test_gotcha_4_history_is_answered_with_the_current_revision(five: Driver) -> None:
    response = five.range(everything(revision=3))
    assert [pair.key for pair in response.kvs] == [b"a", b"b"]
    assert response.header.revision == 6


def test_gotcha_6_limit(five: Driver) -> None:
    exact = five.range(R(key=b"a", range_end=b"d", limit=3))
    cut = five.range(R(key=b"a", range_end=b"d", limit=2))
    assert (exact.more, exact.count, len(exact.kvs)) == (False, 3, 3)
    assert (cut.more, cut.count, len(cut.kvs)) == (True, 3, 2)


def test_gotcha_7_and_8_count_only_wins(five: Driver) -> None:
    for options in ({"limit": 1}, {"keys_only": True}, {"min_mod_revision": 6}, {"revision": 6}):
        response = five.range(everything(count_only=True, **options))
        assert (list(response.kvs), response.more, response.count) == ([], False, 5)


def test_count_only_of_one_key_and_of_none(five: Driver) -> None:
    assert five.range(R(key=b"a", count_only=True)).count == 1
    assert five.range(R(key=b"x", count_only=True)).count == 0
    assert five.range(R(key=b"a", count_only=True, revision=1)).count == 0


def test_gotcha_9_keys_only_sorts_by_the_real_values(five: Driver) -> None:
    response = five.range(everything(keys_only=True, sort_order=R.ASCEND, sort_target=R.VALUE))
    assert [(pair.key, pair.value) for pair in response.kvs] == [
        (key, b"") for key in (b"e", b"d", b"c", b"b", b"a")
    ]


def test_keys_only_keeps_everything_else() -> None:
    driver = Driver()
    driver.grant(9)
    driver.put(b"a", b"1", lease=9)
    driver.put(b"a", b"2", lease=9)
    (pair,) = driver.range(R(key=b"a", keys_only=True)).kvs
    assert (pair.value, pair.create_revision, pair.mod_revision, pair.version, pair.lease) == (
        b"",
        2,
        3,
        2,
        9,
    )


def test_gotcha_10_limit_of_zero_or_less_is_none(five: Driver) -> None:
    for limit in (0, -1):
        response = five.range(everything(limit=limit))
        assert (len(response.kvs), response.more) == (5, False)


@pytest.mark.parametrize(
    ("option", "bound", "kept"),
    [
        ("min_mod_revision", 4, [b"a", b"c", b"d", b"e"]),
        ("max_mod_revision", 4, [b"b", b"c"]),
        ("min_create_revision", 3, [b"b", b"c", b"d", b"e"]),
        ("max_create_revision", 4, [b"a", b"b", b"c"]),
    ],
)
def test_gotcha_11_filters_are_inclusive_and_keep_the_count(
    five: Driver, option: str, bound: int, kept: list[bytes]
) -> None:
    five.put(b"a", b"new")
    request = everything()
    setattr(request, option, bound)
    response = five.range(request)
    assert [pair.key for pair in response.kvs] == kept
    assert response.count == 5


def test_gotcha_12_more_looks_at_the_filtered_list(five: Driver) -> None:
    response = five.range(everything(max_mod_revision=3, limit=2))
    assert (len(response.kvs), response.more, response.count) == (2, False, 5)
    response = five.range(everything(min_mod_revision=4, limit=2))
    assert ([pair.key for pair in response.kvs], response.more) == ([b"c", b"d"], True)


def test_gotcha_13_unsorted_by_create_is_ascending(five: Driver) -> None:
    five.delete(b"a")
    five.put(b"a")
    request = everything(sort_target=R.CREATE)
    assert five.keys(request) == [b"b", b"c", b"d", b"e", b"a"]
    request.limit = 2
    # Cut first, at one more than the limit, then sorted.
    assert five.keys(request) == [b"b", b"c"]
    request.sort_order = R.ASCEND
    assert five.keys(request) == [b"b", b"c"]


def test_limit_is_pushed_down_only_without_an_order_and_filters() -> None:
    driver = Driver()
    for key, value in ((b"s1", b"9"), (b"s2", b"8"), (b"s3", b"1"), (b"s4", b"0")):
        driver.put(key, value)
    request = R(key=b"s", range_end=b"t", limit=1, sort_target=R.VALUE)
    assert driver.keys(request) == [b"s2"]
    assert driver.range(request).more
    request.min_mod_revision = 1
    assert driver.keys(request) == [b"s4"]
    request.ClearField("min_mod_revision")
    request.sort_order = R.ASCEND
    assert driver.keys(request) == [b"s4"]
    request.sort_order = R.DESCEND
    assert driver.keys(request) == [b"s1"]
    request.revision = driver.store.revision - 1
    request.sort_order = R.NONE
    assert driver.keys(request) == [b"s2"]


@pytest.mark.parametrize(
    ("target", "ascending"),
    [
        (R.KEY, [b"a", b"b", b"c"]),
        (R.VERSION, [b"a", b"c", b"b"]),
        (R.CREATE, [b"c", b"b", b"a"]),
        (R.MOD, [b"c", b"a", b"b"]),
        (R.VALUE, [b"b", b"c", b"a"]),
    ],
)
def test_sort_targets(target: R.SortTarget.ValueType, ascending: list[bytes]) -> None:
    driver = Driver()
    driver.put(b"c")
    driver.put(b"b")
    driver.put(b"c", b"2")
    driver.put(b"a", b"3")
    driver.put(b"b")
    driver.put(b"b", b"1")
    for revision in (0, driver.store.revision):
        request = everything(revision=revision, sort_target=target, sort_order=R.ASCEND)
        assert driver.keys(request) == ascending
        request.sort_order = R.DESCEND
        assert driver.keys(request) == ascending[::-1]
        request.limit = 1
        assert driver.keys(request) == ascending[-1:]


def test_gotcha_14_keys_are_in_byte_order() -> None:
    driver = Driver()
    keys = [b"foo", b"foo/abc", b"fop", b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff\xff"]
    for key in reversed(keys):
        driver.put(key)
    assert list(driver.everything()) == sorted(keys)


@pytest.mark.parametrize(
    ("key", "end", "found"),
    [
        (b"c", b"c", b""),
        (b"d", b"b", b""),
        (b"b", b"d", b"bc"),
        (b"b", TO_END, b"bcde"),
        (b"bb", TO_END, b"cde"),
        (b"c", b"\x00\x00", b""),
        (b"\x00", b"\x00\x00", b""),
        (b"\x00", TO_END, b"abcde"),
        (b"b", b"", b"b"),
        (b"x", b"", b""),
    ],
)
def test_gotcha_15_what_a_range_end_means(
    five: Driver, key: bytes, end: bytes, found: bytes
) -> None:
    for revision in (0, 6):
        response = five.range(R(key=key, range_end=end, revision=revision))
        assert b"".join(pair.key for pair in response.kvs) == found
        assert response.count == len(found)
    five.put(b"z")
    response = five.range(R(key=key, range_end=end, revision=6))
    assert b"".join(pair.key for pair in response.kvs) == found


def test_gotcha_16_zero_byte_alone_is_a_key(five: Driver) -> None:
    assert five.get(b"\x00").count == 0
    five.put(b"\x00", b"zero")
    assert five.get(b"\x00").kvs[0].value == b"zero"


def test_gotcha_17_empty_key_is_refused(five: Driver) -> None:
    with pytest.raises(Refused) as refused:
        five.range(R(key=b"", range_end=TO_END))
    assert refused.value.spec is errors.EMPTY_KEY


def test_gotcha_19_reads_at_the_compact_revision(five: Driver) -> None:
    five.compact(4)
    assert list(five.everything(4)) == [b"a", b"b", b"c"]
    with pytest.raises(Refused) as refused:
        five.everything(3)
    assert refused.value.spec is errors.COMPACTED
    five.sweep()
    assert list(five.everything(4)) == [b"a", b"b", b"c"]


def test_gotcha_20_compacting_now_keeps_what_is_alive(five: Driver) -> None:
    five.delete(b"b")
    five.compact(7)
    five.sweep()
    assert list(five.everything()) == list(five.everything(7)) == [b"a", b"c", b"d", b"e"]


def test_future_comes_before_compacted(five: Driver) -> None:
    five.compact(6)
    with pytest.raises(Refused) as refused:
        five.everything(7)
    assert refused.value.spec is errors.FUTURE_REV


def test_history_of_one_key(five: Driver) -> None:
    five.put(b"a", b"second")
    five.delete(b"a")
    five.put(b"a", b"again")
    seen = {revision: list(five.get(b"a", revision).kvs) for revision in range(1, 10)}
    values = {revision: pairs[0].value for revision, pairs in seen.items() if pairs}
    old = dict.fromkeys(range(2, 7), b"5")
    assert values == {**old, 7: b"second", 9: b"again"}
    assert [seen[r][0].version for r in (2, 7, 9)] == [1, 2, 1]
    assert [seen[r][0].create_revision for r in (2, 7, 9)] == [2, 2, 9]


def test_values_keep_the_lease_they_were_written_with() -> None:
    driver = Driver()
    driver.grant(5)
    driver.put(b"a", b"1", lease=5)
    driver.put(b"a", b"2")
    driver.revoke(5)
    assert driver.get(b"a", 2).kvs[0].lease == 5
    assert driver.get(b"a").kvs[0].lease == 0


def test_big_values_and_keys() -> None:
    driver = Driver(limits=StoreLimits(record_cache_bytes=0))
    for size in (120, 128, 16_000, 16_384, 300_000):
        key, value = b"k" * size, b"v" * size
        driver.put(key, value)
        driver.flush()
        (pair,) = driver.get(key).kvs
        assert (pair.key, pair.value) == (key, value)
        assert driver.get(key, driver.store.revision).kvs[0] == pair


def test_a_key_that_came_back_is_counted_once(five: Driver) -> None:
    five.delete(b"a")
    assert five.range(everything(revision=6)).count == 5
    five.put(b"a", b"again")
    five.put(b"z")
    for revision, count in ((6, 5), (7, 4), (8, 5)):
        response = five.range(everything(revision=revision))
        assert (response.count, len(response.kvs)) == (count, count)
