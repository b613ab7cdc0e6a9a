"""Answers and revisions: what fits one order is accepted, what does not is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from coord.testing.check import Verdict, check_order
from coord.testing.history import Call, HistoryError, Record, Return, Tenure
from coord.wire import rpc_pb2
from tests.checkers.stories import Simulated, Story, edited, gone, header, kv, seen, with_return

# Good.


def one_after_the_other(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.get(b"a", kv(b"a", b"1", 2), 2, (3, 4))
    story.put(b"a", b"2", 3, (5, 6))
    story.get(b"a", kv(b"a", b"2", 3, create=2, version=2), 3, (7, 8))
    story.delete(b"a", 1, 4, (9, 10))
    story.delete(b"a", 0, 4, (11, 12))
    story.get(b"a", None, 4, (13, 14))
    story.get(b"a", kv(b"a", b"1", 2), 4, (15, 16), past=2)


def overlapping_the_other_way_round(story: Story) -> None:
    story.put(b"a", b"late", 3, (1, 10))
    story.put(b"a", b"early", 2, (2, 9))
    story.get(b"a", kv(b"a", b"late", 3, create=2, version=2), 3, (3, 12))


def a_swap_that_fails(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.swap(b"a", 7, b"x", 2, (3, 4), succeeded=False)
    story.swap(b"a", 2, b"x", 3, (5, 6))


def an_unknown_write_that_was_seen(story: Story) -> None:
    story.put(b"a", b"1", 0, (1, 2), status="info")
    story.get(b"a", kv(b"a", b"1", 2), 2, (3, 4))
    story.put(b"a", b"2", 3, (5, 6))


def an_unknown_write_that_never_was(story: Story) -> None:
    story.put(b"a", b"1", 0, (1, 2), status="info")
    story.put(b"a", b"2", 2, (5, 6))
    story.get(b"a", kv(b"a", b"2", 2), 2, (7, 8))


def a_stale_read_that_may_be(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"a", b"2", 3, (3, 4))
    story.get(b"a", kv(b"a", b"1", 2), 2, (5, 6), serializable=True)


def a_stranger_that_a_witness_saw(story: Story) -> None:
    story.put(b"a", b"1", 3, (1, 2))
    story.get(b"b", kv(b"b", b"x" * 100, 2, lease=7), 3, (3, 4))
    text = kv(b"b", b"len:100:f8fc1f02", 2, lease=7)
    crc = seen(text)
    story.witness(crc, seen(kv(b"a", b"1", 3)), gone(b"b", 4))


def a_revocation(story: Story) -> None:
    revoke = rpc_pb2.LeaseRevokeRequest(ID=5)
    story.put(b"a", b"1", 2, (1, 2), lease=5)
    story.tell(
        "LeaseRevoke", revoke, (3, 4), response=rpc_pb2.LeaseRevokeResponse(header=header(3))
    )
    story.get(b"a", None, 3, (5, 6))


GOOD = [
    one_after_the_other,
    overlapping_the_other_way_round,
    a_swap_that_fails,
    an_unknown_write_that_was_seen,
    an_unknown_write_that_never_was,
    a_stale_read_that_may_be,
    a_revocation,
]


def judged(tell: Callable[[Story], None]) -> Verdict:
    story = Story()
    tell(story)
    return check_order(story.records)


@pytest.mark.parametrize("tell", GOOD)
def test_what_is_right_is_accepted(tell: Callable[[Story], None]) -> None:
    verdict = judged(tell)
    assert verdict.ok, str(verdict)
    assert verdict.checked


def test_values_are_compared_as_texts() -> None:
    story = Story()
    story.put(b"b", b"x" * 100, 2, (1, 2))
    story.get(b"b", kv(b"b", b"x" * 100, 2), 2, (3, 4))
    assert check_order(story.records).ok
    story.get(b"b", kv(b"b", b"x" * 99 + b"y", 2), 2, (5, 6))
    assert check_order(story.records).rules == {"answer"}


# Bad.


def a_stale_read(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"a", b"2", 3, (3, 4))
    story.get(b"a", kv(b"a", b"1", 2), 2, (5, 6))


def another_value(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.get(b"a", kv(b"a", b"other", 2), 2, (3, 4))


def another_version(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.get(b"a", kv(b"a", b"1", 2, version=2), 2, (3, 4))


def a_lost_write(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"b", b"1", 3, (3, 4))
    story.get(b"a", None, 3, (5, 6))


def two_writes_of_one_revision(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"b", b"1", 2, (1, 4))


def a_revision_that_goes_back(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2), client="c")
    story.put(b"a", b"2", 3, (3, 4), client="c")
    story.get(b"a", kv(b"a", b"1", 2), 2, (5, 6), client="c")


def writes_against_real_time(story: Story) -> None:
    story.put(b"a", b"1", 3, (1, 2))
    story.put(b"b", b"2", 2, (3, 4))


def a_write_without_a_revision_of_its_own(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"a", b"2", 2, (3, 4))


def a_revision_that_nobody_made(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"a", b"2", 4, (3, 4))


def a_swap_that_should_have_failed(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.swap(b"a", 9, b"2", 3, (3, 4))


def a_delete_of_nothing_that_counts(story: Story) -> None:
    story.delete(b"a", 1, 2, (1, 2))


def a_delete_that_overlooks(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.delete(b"a", 0, 2, (3, 4))


def a_revocation_without_effect(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2), lease=5)
    revoke = rpc_pb2.LeaseRevokeRequest(ID=5)
    story.tell(
        "LeaseRevoke", revoke, (3, 4), response=rpc_pb2.LeaseRevokeResponse(header=header(2))
    )


def a_past_that_was_compacted(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"a", b"2", 3, (3, 4))
    compact = rpc_pb2.CompactionRequest(revision=3)
    story.tell("Compact", compact, (5, 6), response=rpc_pb2.CompactionResponse(header=header(3)))
    story.get(b"a", kv(b"a", b"1", 2), 3, (7, 8), past=2)


BAD = [
    (a_stale_read, "real time"),
    (another_value, "answer"),
    (another_version, "answer"),
    (a_lost_write, "answer"),
    (two_writes_of_one_revision, "twice"),
    (a_revision_that_goes_back, "client"),
    (writes_against_real_time, "real time"),
    (a_write_without_a_revision_of_its_own, "real time"),
    (a_revision_that_nobody_made, "gap"),
    (a_swap_that_should_have_failed, "answer"),
    (a_delete_of_nothing_that_counts, "answer"),
    (a_delete_that_overlooks, "answer"),
    (a_revocation_without_effect, "answer"),
    (a_past_that_was_compacted, "compacted"),
]


@pytest.mark.parametrize(("tell", "rule"), BAD)
def test_what_is_wrong_is_named(tell: Callable[[Story], None], rule: str) -> None:
    verdict = judged(tell)
    assert rule in verdict.rules, str(verdict)
    assert all(len(each.text.splitlines()) <= 20 for each in verdict.violations)


def test_a_gap_that_something_may_have_made_is_undecided() -> None:
    story = Story()
    story.put(b"a", b"1", 2, (1, 2))
    story.delete(b"a", 1, 0, (3, 4), status="info")
    story.put(b"a", b"2", 4, (5, 6))
    verdict = check_order(story.records)
    assert verdict.violations == ()
    assert len(verdict.undecided) == 1
    story.witness(seen(kv(b"a", b"1", 2)), gone(b"a", 3), seen(kv(b"a", b"2", 4)))
    assert check_order(story.records).ok


def test_strangers_are_taken_from_the_witness() -> None:
    story = Story()
    story.put(b"a", b"1", 3, (1, 2))
    story.get(b"b", kv(b"b", b"x", 2, lease=7), 3, (3, 4))
    lock = Tenure(kind="lock", attempt=99, client="c", name=b"b", ts=1, phase="call")
    without = check_order([*story.records, lock])
    assert without.undecided
    story.witness(seen(kv(b"b", b"x", 2, lease=7)), seen(kv(b"a", b"1", 3)), gone(b"b", 4))
    assert check_order(story.records).ok


def test_a_history_must_make_sense() -> None:
    ret = Return(id=1, ts=1, status="ok")
    call = Call(id=1, client="c", ts=0, op="Put", request=b"")
    histories: list[list[Record]] = [[ret], [call, ret, ret], [call, call]]
    for records in histories:
        with pytest.raises(HistoryError):
            check_order(records)


# Generated.


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unknown", [0.0, 0.1])
def test_right_runs_are_accepted(seed: int, unknown: float) -> None:
    run = Simulated(seed, unknown=unknown)
    for records in (run.records, run.logged):
        verdict = check_order(records)
        assert verdict.ok, str(verdict)


def is_read(call: Call, ret: Return) -> bool:
    shown = rpc_pb2.RangeResponse.FromString(ret.response)
    return call.op == "Range" and len(shown.kvs) == 1 and ret.id > 50


def is_put(call: Call, ret: Return) -> bool:
    return call.op == "Put" and ret.id > 50


def shift(response: rpc_pb2.PutResponse) -> None:
    response.header.revision += 1


def go_back(response: rpc_pb2.RangeResponse) -> None:
    response.header.revision -= 20


def forge(response: rpc_pb2.RangeResponse) -> None:
    response.kvs[0].value = b"forged"


def hide(response: rpc_pb2.RangeResponse) -> None:
    response.ClearField("kvs")
    response.count = 0


def later(response: rpc_pb2.RangeResponse) -> None:
    response.kvs[0].mod_revision += 1


MUTATIONS: list[tuple[str, Callable[[list[Record]], list[Record]]]] = [
    ("a put's revision is shifted", lambda r: with_return(r, is_put, edited(rpc_pb2.PutResponse, shift))),
    ("a read goes back", lambda r: with_return(r, is_read, edited(rpc_pb2.RangeResponse, go_back))),
    ("a value is forged", lambda r: with_return(r, is_read, edited(rpc_pb2.RangeResponse, forge))),
    ("a key is hidden", lambda r: with_return(r, is_read, edited(rpc_pb2.RangeResponse, hide))),
    ("a mod revision is wrong", lambda r: with_return(r, is_read, edited(rpc_pb2.RangeResponse, later))),
    ("a late ok is forged", lambda r: with_return(r, is_put, lambda ret: replace(ret, revision=ret.revision + 500))),
]  # fmt: skip


@pytest.mark.parametrize("mutate", [row[1] for row in MUTATIONS], ids=[row[0] for row in MUTATIONS])
@pytest.mark.parametrize("seed", range(3))
def test_mutants_are_rejected(mutate: Callable[[list[Record]], list[Record]], seed: int) -> None:
    run = Simulated(seed)
    assert check_order(mutate(run.calls)).violations
