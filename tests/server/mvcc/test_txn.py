"""Txn: deciding, checking, executing; the known traps by their number (spec core 9)."""

from __future__ import annotations

import pytest

from coord.wire import fast
from coord.wire import rpc_pb2 as pb
from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc.prepared import prepare
from coord_server.mvcc.txn import is_read_only, is_serializable
from coord_server.ops import OpKind
from tests.server.mvcc.driver import (
    TO_END,
    Driver,
    compare_number,
    compare_value,
    delete,
    get,
    nested,
    put,
    txn_of,
)

EQUAL, GREATER, LESS, NOT_EQUAL, UNKNOWN = 0, 1, 2, 3, 9


@pytest.fixture
def driver() -> Driver:
    """Key a = 1 (revisions 2 and 3, version 2), key b = 2 (revision 4)."""
    driver = Driver()
    driver.put(b"a", b"0")
    driver.put(b"a", b"1")
    driver.put(b"b", b"2")
    return driver


def read_only(request: pb.TxnRequest) -> bool:
    return is_read_only(prepare(request))


def serializable(request: pb.TxnRequest) -> bool:
    return is_serializable(prepare(request))


def holds(driver: Driver, *compares: pb.Compare) -> bool:
    return driver.txn(txn_of(when=list(compares))).succeeded


@pytest.mark.parametrize("target", ["version", "create_revision", "mod_revision", "lease"])
def test_gotcha_34_a_missing_key_compares_as_zero(driver: Driver, target: str) -> None:
    assert holds(driver, compare_number(b"x", target, EQUAL, 0))
    assert holds(driver, compare_number(b"x", target, LESS, 1))
    assert holds(driver, compare_number(b"x", target, NOT_EQUAL, 1))
    assert not holds(driver, compare_number(b"x", target, GREATER, 0))
    assert holds(driver, compare_number(b"x", target, GREATER, -1))


@pytest.mark.parametrize("result", [EQUAL, GREATER, LESS, NOT_EQUAL, UNKNOWN])
def test_gotcha_34_a_missing_key_has_no_value(driver: Driver, result: int) -> None:
    assert not holds(driver, compare_value(b"x", result, b""))
    assert not holds(driver, compare_value(b"x", result, b"", end=b"y"))


@pytest.mark.parametrize(
    ("target", "actual"),
    [("version", 2), ("create_revision", 2), ("mod_revision", 3), ("lease", 0)],
)
def test_relations_of_numbers(driver: Driver, target: str, actual: int) -> None:
    for given, truths in (
        (actual, "=,!<,!>,!!"),
        (actual + 1, "!=,<,!>,!"),
        (actual - 1, "!=,!<,>,!"),
    ):
        results = {"=": EQUAL, "<": LESS, ">": GREATER, "!": NOT_EQUAL}
        for truth in truths.split(","):
            expected = not (len(truth) == 2 and truth[0] == "!")
            assert (
                holds(driver, compare_number(b"a", target, results[truth[-1]], given)) is expected
            )


def test_values_compare_by_bytes(driver: Driver) -> None:
    assert holds(driver, compare_value(b"a", EQUAL, b"1"))
    assert holds(driver, compare_value(b"a", LESS, b"10"))
    assert holds(driver, compare_value(b"a", GREATER, b""))
    assert holds(driver, compare_value(b"a", LESS, b"\xff"))
    assert holds(driver, compare_value(b"a", NOT_EQUAL, b"2"))
    assert not holds(driver, compare_value(b"a", EQUAL, b"2"))


def test_gotcha_35_over_a_range_every_key_must_match(driver: Driver) -> None:
    assert holds(driver, compare_number(b"a", "mod_revision", GREATER, 2, end=b"c"))
    assert not holds(driver, compare_number(b"a", "mod_revision", GREATER, 3, end=b"c"))
    assert holds(driver, compare_value(b"a", GREATER, b"0", end=TO_END))
    assert holds(driver, compare_number(b"x", "version", EQUAL, 0, end=b"z"))


def test_gotcha_36_no_key_newer(driver: Driver) -> None:
    assert holds(driver, compare_number(b"a", "create_revision", LESS, 5, end=b"c"))
    assert not holds(driver, compare_number(b"a", "create_revision", LESS, 4, end=b"c"))
    assert holds(driver, compare_number(b"x", "create_revision", LESS, 1, end=b"y"))


def test_operand_of_another_member_is_zero(driver: Driver) -> None:
    compare = pb.Compare(target=pb.Compare.VERSION, key=b"a", mod_revision=2)
    assert not holds(driver, compare)
    compare.result = pb.Compare.GREATER
    assert holds(driver, compare)
    assert holds(
        driver, pb.Compare(target=pb.Compare.VALUE, result=pb.Compare.GREATER, key=b"a", version=9)
    )


def test_unknown_enum_values(driver: Driver) -> None:
    target = pb.Compare(key=b"a", version=7)
    target.target = pb.Compare.CompareTarget.ValueType(9)
    assert holds(driver, target)
    target.result = pb.Compare.GREATER
    assert not holds(driver, target)
    assert holds(driver, compare_number(b"a", "version", UNKNOWN, 100))


def test_compares_are_a_conjunction(driver: Driver) -> None:
    true, false = compare_value(b"a", EQUAL, b"1"), compare_value(b"a", EQUAL, b"x")
    assert holds(driver)
    assert holds(driver, true, true)
    assert not holds(driver, true, false)


def test_the_branch_is_told(driver: Driver) -> None:
    when = [compare_number(b"lock", "create_revision", EQUAL, 0)]
    request = txn_of(put(b"lock", b"me"), when=when, otherwise=[get(b"lock")])
    first = driver.txn(request)
    assert (first.succeeded, first.header.revision, len(first.responses)) == (True, 5, 1)
    second = driver.txn(request)
    assert (second.succeeded, second.header.revision) == (False, 5)
    assert second.responses[0].response_range.kvs[0].value == b"me"


def test_gotcha_26_an_unknown_lease_rejects_the_whole(driver: Driver) -> None:
    with pytest.raises(Refused) as refused:
        driver.txn(txn_of(put(b"c"), delete(b"a"), put(b"d", lease=404)))
    assert refused.value.spec is errors.LEASE_NOT_FOUND
    assert (driver.store.revision, sorted(driver.everything()), driver.last.events) == (
        4,
        [b"a", b"b"],
        [],
    )


def test_gotcha_27_and_28_the_branch_not_taken_is_not_checked(driver: Driver) -> None:
    driver.compact(3)
    response = driver.txn(
        txn_of(
            put(b"c"),
            otherwise=[put(b"d", lease=404), get(b"a", revision=99), get(b"a", revision=2)],
        )
    )
    assert response.header.revision == 5


@pytest.mark.parametrize(
    ("revision", "spec"),
    [
        (2, errors.COMPACTED),
        (5, errors.FUTURE_REV),
        (-1, errors.COMPACTED),
        (3, None),
        (4, None),
        (0, None),
    ],
)
def test_gotcha_28_reads_on_the_path_are_checked_first(
    driver: Driver, revision: int, spec: errors.ErrorSpec | None
) -> None:
    driver.compact(3)
    for extra in ([put(b"c")], []):
        request = txn_of(*extra, get(b"a", revision=revision))
        if spec is None:
            driver.txn(request)
            continue
        with pytest.raises(Refused) as refused:
            driver.txn(request)
        assert refused.value.spec is spec
        assert driver.store.revision == 4


def test_gotcha_3_negative_revisions_are_compared_as_they_are(driver: Driver) -> None:
    assert driver.txn(txn_of(get(b"a", revision=-1))).responses[0].response_range.count == 1
    with pytest.raises(Refused) as refused:
        driver.txn(txn_of(get(b"a", revision=-2)))
    assert refused.value.spec is errors.COMPACTED


def test_own_revision_is_the_future(driver: Driver) -> None:
    with pytest.raises(Refused) as refused:
        driver.txn(txn_of(put(b"c"), get(b"c", revision=5)))
    assert refused.value.spec is errors.FUTURE_REV


def test_ignore_flags_look_at_the_state_before(driver: Driver) -> None:
    keep = pb.RequestOp(request_put=pb.PutRequest(key=b"new", ignore_value=True))
    with pytest.raises(Refused) as refused:
        driver.txn(txn_of(keep))
    assert refused.value.spec is errors.KEY_NOT_FOUND
    gone = pb.RequestOp(request_put=pb.PutRequest(key=b"a", ignore_value=True))
    # From-key intervals never meet a put, so this passes validation; etcd 3.5 dies of it.
    with pytest.raises(Refused) as refused:
        driver.txn(txn_of(delete(b"a", TO_END), gone))
    assert refused.value.spec is errors.KEY_NOT_FOUND
    assert sorted(driver.everything()) == [b"a", b"b"]
    assert driver.txn(txn_of(delete(b"b", TO_END), gone)).header.revision == 5


def test_gotcha_37_nested_compares_see_the_state_before(driver: Driver) -> None:
    inner = txn_of(
        put(b"then"), when=[compare_number(b"c", "version", EQUAL, 0)], otherwise=[put(b"else")]
    )
    driver.txn(txn_of(put(b"c"), nested(inner)))
    assert sorted(driver.everything()) == [b"a", b"b", b"c", b"then"]


def test_gotcha_38_and_39_headers_of_parts(driver: Driver) -> None:
    response = driver.txn(
        txn_of(
            get(b"a"),
            put(b"c"),
            get(b"c"),
            delete(b"x"),
            delete(b"b"),
            nested(txn_of(put(b"d"), get(b"d"))),
        )
    )
    assert response.header.revision == 5
    parts = response.responses
    revisions = [
        parts[0].response_range.header.revision,
        parts[1].response_put.header.revision,
        parts[2].response_range.header.revision,
        parts[3].response_delete_range.header.revision,
        parts[4].response_delete_range.header.revision,
    ]
    assert revisions == [4, 5, 5, 5, 5]
    assert parts[0].response_range.header.member_id == 0
    inner = parts[5].response_txn
    assert inner.HasField("header")
    assert inner.header.revision == 0
    assert inner.succeeded
    assert inner.responses[0].response_put.header.revision == 5
    assert inner.responses[1].response_range.kvs[0].create_revision == 5


def test_delete_of_nothing_before_a_change_tells_the_old_revision(driver: Driver) -> None:
    response = driver.txn(txn_of(delete(b"x"), delete(b"a"), delete(b"y")))
    assert [part.response_delete_range.header.revision for part in response.responses] == [4, 5, 5]
    assert [part.response_delete_range.deleted for part in response.responses] == [0, 1, 0]


def test_reads_see_what_came_before_them_in_the_transaction(driver: Driver) -> None:
    response = driver.txn(
        txn_of(put(b"aa"), delete(b"b"), get(b"a", TO_END), get(b"a", TO_END, revision=4))
    )
    now, before = response.responses[2].response_range, response.responses[3].response_range
    assert ([kv.key for kv in now.kvs], now.count) == ([b"a", b"aa"], 2)
    assert ([kv.key for kv in before.kvs], before.count) == ([b"a", b"b"], 2)


def test_gotcha_30_a_write_txn_without_a_change_keeps_the_revision(driver: Driver) -> None:
    response = driver.txn(txn_of(delete(b"x")))
    assert (response.header.revision, driver.store.revision, driver.last.events) == (4, 4, [])


def test_gotcha_41_and_42_what_counts_as_read_only(driver: Driver) -> None:
    assert read_only(pb.TxnRequest())
    assert read_only(txn_of(get(b"a"), otherwise=[get(b"b")]))
    assert not read_only(txn_of(get(b"a"), otherwise=[put(b"b")]))
    assert not read_only(txn_of(nested(txn_of(get(b"a")))))
    assert serializable(txn_of(when=[compare_number(b"a", "version", EQUAL, 0)]))
    assert serializable(
        txn_of(get(b"a", serializable=True), otherwise=[get(b"a", serializable=True)])
    )
    assert not serializable(txn_of(get(b"a", serializable=True), otherwise=[get(b"a")]))
    response = driver.txn(pb.TxnRequest())
    assert (response.succeeded, response.header.revision, len(response.responses)) == (True, 4, 0)


def test_through_the_log_a_read_only_txn_answers_the_same(driver: Driver) -> None:
    request = txn_of(get(b"a"), when=[compare_value(b"a", EQUAL, b"1")])
    logged = pb.TxnResponse.FromString(driver.submit(OpKind.TXN, request.SerializeToString()))
    assert logged == driver.txn(request)
    assert driver.store.revision == 4


# Transactions that change a key twice, as far as validation lets them: the rows of the table of
# duplicates that say yes.


def events(driver: Driver) -> list[tuple[int, bytes, int]]:
    return [(event.kind, event.key, event.mod_revision) for event in driver.last.events]


def test_put_then_delete_of_the_same_key(driver: Driver) -> None:
    first, second = nested(txn_of(put(b"n", b"1"))), nested(txn_of(delete(b"n", prev_kv=True)))
    response = driver.txn(txn_of(first, second))
    removed = response.responses[1].response_txn.responses[0].response_delete_range
    assert (removed.deleted, removed.prev_kvs[0].value, removed.prev_kvs[0].mod_revision) == (
        1,
        b"1",
        5,
    )
    assert events(driver) == [(0, b"n", 5), (1, b"n", 5)]
    # Nobody can ask for what was between the two.
    assert driver.last.events[1].store_prev is None
    assert driver.get(b"n").count == driver.get(b"n", 5).count == 0


@pytest.mark.parametrize("put_first", [False, True])
def test_put_and_delete_from_key(driver: Driver, put_first: bool) -> None:
    ops = [put(b"a", b"new", prev_kv=True), delete(b"a", TO_END)]
    driver.txn(txn_of(*(ops if put_first else ops[::-1])))
    if put_first:
        assert driver.everything() == {}
        assert events(driver) == [(0, b"a", 5), (1, b"a", 5), (1, b"b", 5)]
        before = driver.last.events[1].store_prev
        assert before is not None
        assert fast.decode_key_value(before)[2] == 3
        return
    (pair,) = driver.get(b"a").kvs
    assert (pair.create_revision, pair.mod_revision, pair.version) == (5, 5, 1)
    assert events(driver) == [(1, b"a", 5), (1, b"b", 5), (0, b"a", 5)]
    assert driver.last.events[2].is_create
    restarted = driver.restart()
    assert restarted.get(b"a").kvs[0] == pair
    assert restarted.everything(4) == {b"a": b"1", b"b": b"2"}
    driver.compact(5)
    driver.sweep()
    assert driver.restart().get(b"a").kvs[0] == pair


def test_overlapping_deletes(driver: Driver) -> None:
    response = driver.txn(txn_of(delete(b"a"), delete(b"a", b"c"), delete(b"a", b"c")))
    assert [part.response_delete_range.deleted for part in response.responses] == [1, 1, 0]
    assert events(driver) == [(1, b"a", 5), (1, b"b", 5)]


def test_gotcha_63_events_are_in_the_order_of_the_operations(driver: Driver) -> None:
    driver.txn(txn_of(put(b"z"), put(b"c"), delete(b"a"), put(b"d")))
    assert events(driver) == [(0, b"z", 5), (0, b"c", 5), (1, b"a", 5), (0, b"d", 5)]
    later, _ = driver.restart().store.history(b"\x00", TO_END, 5, 5, 9)
    assert [(event.kind, event.key, event.mod_revision) for event in later] == events(driver)
