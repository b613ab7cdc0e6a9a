"""The ledger must find what it is there to find."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coord import EventType, KeyValue, WatchEvent
from coord.testing.check import check_ledger
from coord.testing.check.ledger import Broken, Ledger, Write
from coord.wire import rpc_pb2
from tests.checkers.stories import Simulated, Story, gone, header, kv, seen


def put(
    revision: int, key: bytes, value: bytes, *, create: int = 0, version: int = 1
) -> WatchEvent:
    kv = KeyValue(
        key=key,
        value=value,
        create_revision=create or revision,
        mod_revision=revision,
        version=version,
    )
    return WatchEvent(type=EventType.PUT, kv=kv)


def delete(revision: int, key: bytes) -> WatchEvent:
    kv = KeyValue(key=key, value=b"", create_revision=0, mod_revision=revision, version=0)
    return WatchEvent(type=EventType.DELETE, kv=kv)


def acknowledged() -> Ledger:
    """Told that ``a=1`` is revision 2, and that ``b=2`` was sent."""
    ledger = Ledger()
    ledger.acknowledge(Write(puts={b"a": (b"1", 0)}), 2)
    ledger.doubt(Write(puts={b"b": (b"2", 0)}))
    return ledger


@pytest.mark.parametrize("applied", [False, True])
def test_an_unknown_write_may_or_may_not_have_happened(*, applied: bool) -> None:
    ledger = acknowledged()
    ledger.replay([put(2, b"a", b"1"), *([put(3, b"b", b"2")] if applied else [])])
    ledger.settle()
    assert set(ledger.state) == ({b"a", b"b"} if applied else {b"a"})


@pytest.mark.parametrize(
    ("events", "what"),
    [
        ([], "acknowledged and lost"),
        ([put(2, b"a", b"other")], "acknowledged was"),
        ([put(3, b"a", b"1")], "revision 3 follows 1"),
        ([put(2, b"a", b"1"), put(2, b"b", b"2")], "acknowledged was"),
        ([put(2, b"a", b"1"), put(3, b"c", b"3")], "nobody wrote"),
        ([put(2, b"a", b"1"), put(3, b"b", b"2"), put(4, b"b", b"2")], "nobody wrote"),
        ([put(2, b"a", b"1"), put(2, b"a", b"1")], "twice"),
        ([put(2, b"a", b"1", version=2)], "version"),
        ([put(2, b"a", b"1"), delete(3, b"a")], "nobody wrote"),
    ],
)
def test_every_difference_is_found(events: list[WatchEvent], what: str) -> None:
    ledger = acknowledged()

    def judge() -> None:
        ledger.replay(events)
        ledger.settle()

    with pytest.raises(Broken, match=what):
        judge()


def test_an_unknown_write_must_not_come_after_all() -> None:
    ledger = acknowledged()
    ledger.replay([put(2, b"a", b"1")])
    ledger.settle()
    with pytest.raises(Broken, match="nobody wrote"):
        ledger.replay([put(3, b"b", b"2")])


def test_revisions_must_not_go_back() -> None:
    ledger = acknowledged()
    with pytest.raises(Broken, match="two writes"):
        ledger.acknowledge(Write(puts={b"x": (b"", 0)}), 2)
    ledger.replay([put(2, b"a", b"1")])
    with pytest.raises(Broken, match="went back"):
        ledger.acknowledge(Write(puts={b"x": (b"", 0)}), 2)
    ledger.saw(9)
    with pytest.raises(Broken, match="the store is at 2"):
        ledger.settle()


# From recorded histories.


def lost(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"b", b"2", 3, (3, 4))
    story.witness(*[seen(kv(b"a", b"1", 2))], reached=3)


def lost_in_the_middle(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"b", b"2", 3, (3, 4))
    story.witness(*[seen(kv(b"b", b"2", 3))])


def replaced(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.witness(*[seen(kv(b"a", b"other", 2))])


def torn(story: Story) -> None:
    puts = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"1"))
        for key in (b"a", b"b")
    ]
    answer = rpc_pb2.TxnResponse(header=header(2), succeeded=True)
    answer.responses.add().response_put.SetInParent()
    answer.responses.add().response_put.SetInParent()
    story.tell("Txn", rpc_pb2.TxnRequest(success=puts), (1, 2), response=answer)
    story.witness(*[seen(kv(b"a", b"1", 2))])


def torn_though_unknown(story: Story) -> None:
    puts = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"1"))
        for key in (b"a", b"b")
    ]
    story.tell("Txn", rpc_pb2.TxnRequest(success=puts), (1, 2), status="info")
    story.witness(*[seen(kv(b"a", b"1", 2))])


def applied_twice(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.witness(*[seen(kv(b"a", b"1", 2)), seen(kv(b"a", b"1", 3, create=2, version=2))])


def done_though_failed(story: Story) -> None:
    story.put(b"a", b"1", 0, (1, 2), status="fail")
    story.witness(*[seen(kv(b"a", b"1", 2))])


def a_deletion_that_nobody_asked_for(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.witness(*[seen(kv(b"a", b"1", 2)), gone(b"a", 3)])


def half_of_an_expiry(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2), lease=5)
    story.put(b"b", b"1", 3, (3, 4), lease=5)
    story.witness(
        *[seen(kv(b"a", b"1", 2, lease=5)), seen(kv(b"b", b"1", 3, lease=5)), gone(b"a", 4)]
    )


def a_wrong_version(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.witness(*[seen(kv(b"a", b"1", 2, version=3))])


@pytest.mark.parametrize(
    ("tell", "rule"),
    [
        (lost, "lost"),
        (lost_in_the_middle, "gap"),
        (replaced, "torn"),
        (torn, "torn"),
        (torn_though_unknown, "stranger"),
        (applied_twice, "duplicate"),
        (done_though_failed, "stranger"),
        (a_deletion_that_nobody_asked_for, "stranger"),
        (half_of_an_expiry, "stranger"),
        (a_wrong_version, "counter"),
    ],
)
def test_recorded_lies_are_named(tell: Callable[[Story], None], rule: str) -> None:
    story = Story()
    tell(story)
    assert check_ledger(story.records).rules == {rule}


def test_what_others_write_must_be_allowed() -> None:
    story = Story()
    story.put(b"a", b"1", 3, (1, 2))
    story.witness(*[seen(kv(b"lock/x", b"", 2, lease=4)), seen(kv(b"a", b"1", 3))])
    assert check_ledger(story.records).rules == {"stranger"}
    assert check_ledger(story.records, strangers=[b"lock/"]).ok


def test_expiries_and_unknown_writes_are_explained() -> None:
    story = Story()
    story.put(b"a", b"1", 2, (1, 2), lease=5)
    story.delete(b"b", 1, 0, (1, 2), status="info")
    story.put(b"b", b"2", 0, (3, 4), status="info")
    story.put(b"never", b"2", 0, (3, 4), status="info")
    events = [seen(kv(b"a", b"1", 2, lease=5)), seen(kv(b"b", b"2", 3)), gone(b"b", 4)]
    story.witness(*[*events, gone(b"a", 5)])
    verdict = check_ledger(story.records)
    assert verdict.ok, str(verdict)


def test_without_a_witness_nothing_is_decided() -> None:
    story = Story()
    story.put(b"a", b"1", 2, (1, 2))
    assert check_ledger(story.records).undecided
    story.put(b"a", b"2", 3, (3, 4))
    story.witness(*[seen(kv(b"a", b"1", 2))])
    assert check_ledger(story.records).undecided
    assert check_ledger([]).ok


@pytest.mark.parametrize("seed", range(4))
def test_right_runs_are_accepted(seed: int) -> None:
    run = Simulated(seed, unknown=0.1)
    for records in (run.records, run.logged):
        verdict = check_ledger(records)
        assert verdict.ok, str(verdict)


@pytest.mark.parametrize("seed", range(4))
def test_a_log_without_one_of_its_entries_is_rejected(seed: int) -> None:
    run = Simulated(seed)
    acknowledged = [n for n, entry in enumerate(run.log) if entry.op == "Put" and n > 20]
    del run.log[acknowledged[seed]]
    assert check_ledger(run.logged).violations
