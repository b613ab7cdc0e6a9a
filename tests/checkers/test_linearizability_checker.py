"""The search: equal to trying everything on small histories, quick on large ones, right on those of known verdict."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coord.testing.check import Budget, Move, check_linearizable, search
from coord.testing.check.timeline import NEVER
from coord.testing.history import Call, Record, Return
from coord.wire import rpc_pb2
from tests.checkers.stories import Simulated, Story, edited, gone, header, kv, seen, with_return

# The search itself, on a register.


@dataclass(frozen=True)
class Use:
    """A write of a value, a read that gave it, or a swap of one for another; ``end`` NEVER if unknown."""

    begin: int
    end: int
    kind: str
    value: int
    new: int = 0

    def apply(self, state: int) -> Sequence[int]:
        if self.kind == "write":
            return (self.value,)
        if self.kind == "swap":
            return (self.new,) if state == self.value else ()
        return (state,) if self.end == NEVER or state == self.value else ()

    def move(self, number: int, hint: int) -> Move:
        return Move(
            name=str(number),
            begun=self.begin,
            ended=self.end,
            apply=self.apply,
            hint=(hint, 0),
            is_read=self.kind == "read",
        )


def decide(uses: Sequence[Use], hints: Sequence[int] | None = None) -> bool | None:
    given_hints = hints or range(len(uses))
    moves = [use.move(n, hint) for n, (use, hint) in enumerate(zip(uses, given_hints, strict=True))]
    return search(moves, 0, Budget(60)).is_legal


def decide_by_trying_everything(uses: Sequence[Use]) -> bool:
    required = [use for use in uses if use.end != NEVER]
    optional = [use for use in uses if use.end == NEVER]
    for count in range(len(optional) + 1):
        for some in itertools.combinations(optional, count):
            for order in itertools.permutations([*required, *some]):
                if in_time(order) and replays(order):
                    return True
    return False


def in_time(order: Sequence[Use]) -> bool:
    return all(later.end > earlier.begin for earlier, later in itertools.combinations(order, 2))


def replays(order: Sequence[Use]) -> bool:
    state = 0
    for use in order:
        following = use.apply(state)
        if not following:
            return False
        state = following[0]
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Use]:
    count = draw(st.integers(0, 5))
    times = draw(st.permutations(range(2 * count)))
    uses: list[Use] = []
    for number in range(count):
        begin, end = sorted(times[2 * number : 2 * number + 2])
        kind = draw(st.sampled_from(["write", "read", "swap"]))
        is_unknown = draw(st.integers(0, 4)) == 0
        value, new = draw(st.integers(0, 2)), draw(st.integers(0, 2))
        uses.append(Use(begin, NEVER if is_unknown else end, kind, value, new))
    return uses


@settings(max_examples=500, derandomize=True, deadline=None)
@given(histories(), st.randoms(use_true_random=False))
def test_the_search_agrees_with_trying_everything(uses: list[Use], rand: random.Random) -> None:
    right = decide_by_trying_everything(uses)
    assert decide(uses) == right
    # Hints may be wrong: they decide how long it takes, not what comes out.
    hints = list(range(len(uses)))
    rand.shuffle(hints)
    assert decide(uses, hints) == right


@pytest.mark.parametrize("seed", range(50))
def test_recorded_register_histories(seed: int) -> None:
    """Made right by construction, and wrong by one read of a value that was never written."""
    rand = random.Random(seed)
    uses: list[Use] = []
    state = 0
    points = sorted(rand.sample(range(10_000), 60))
    for point in points:
        begin, end = point - rand.randrange(400), point + rand.randrange(1, 400)
        kind = rand.choice(("write", "read", "swap"))
        if kind == "write":
            state = rand.randrange(1, 9)
            uses.append(Use(begin, end, kind, state))
        elif kind == "read":
            uses.append(Use(begin, end, kind, state))
        else:
            new = rand.randrange(1, 9)
            uses.append(Use(begin, end, kind, state, new))
            state = new
    assert decide(uses) is True
    place = rand.randrange(60)
    uses[place] = Use(uses[place].begin, uses[place].end, "read", 77)
    assert decide(uses) is False


def test_a_search_may_run_out() -> None:
    # Many concurrent writes and a read that none of their orders explains: everything is tried.
    uses = [Use(n, 1000 + n, "write", n) for n in range(1, 25)]
    uses.append(Use(2000, 2001, "read", 77))
    moves = [use.move(n, n) for n, use in enumerate(uses)]
    found = search(moves, 0, Budget(3600, steps=5000))
    assert found.is_legal is None
    assert len(found.order) == 24


def test_the_reason_is_what_fits_nowhere() -> None:
    uses = [Use(1, 2, "write", 1), Use(3, 4, "write", 2), Use(5, 6, "read", 1)]
    found = search([use.move(n, n) for n, use in enumerate(uses)], 0, Budget(10))
    assert not found.is_legal
    assert [move.name for move in found.order] == ["0", "1"]
    assert [move.name for move in found.stuck] == ["2"]


# On histories of the store.


def a_read_of_the_other_of_two_at_once(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 10))
    story.get(b"a", None, 1, (2, 9))
    story.get(b"a", kv(b"a", b"1", 2), 2, (3, 12))


def a_swap_of_what_was_seen(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.swap(b"a", 2, b"2", 3, (3, 8))
    story.swap(b"a", 2, b"3", 3, (4, 9), succeeded=False)


def an_unknown_write_that_comes_late(story: Story) -> None:
    story.put(b"a", b"1", 0, (1, 2), status="info")
    story.get(b"a", None, 1, (3, 4))
    story.get(b"a", kv(b"a", b"1", 2), 2, (5, 6))


def an_unknown_swap_of_an_unknown_write(story: Story) -> None:
    story.put(b"a", b"1", 0, (1, 2), status="info")
    story.swap(b"a", 2, b"2", 0, (3, 4), status="info")
    story.get(b"a", kv(b"a", b"2", 3, create=2, version=2), 3, (5, 6))


def a_lease_that_ends(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2), lease=9)
    story.get(b"a", kv(b"a", b"1", 2, lease=9), 2, (3, 4))
    story.get(b"a", None, 3, (5, 6))


def a_revocation(story: Story) -> None:
    revoke = rpc_pb2.LeaseRevokeRequest(ID=9)
    story.put(b"a", b"1", 2, (1, 2), lease=9)
    story.put(b"b", b"1", 3, (1, 2))
    story.tell(
        "LeaseRevoke", revoke, (3, 4), response=rpc_pb2.LeaseRevokeResponse(header=header(4))
    )
    story.get(b"a", None, 4, (5, 6))
    story.get(b"b", kv(b"b", b"1", 3), 4, (5, 6))


def the_end_of_a_lease_while_another_without_keys_is_revoked(story: Story) -> None:
    """The revocation makes no revision, and names the one that the other lease's end has made."""
    story.put(b"a", b"1", 2, (1, 2), lease=9)
    nothing = rpc_pb2.LeaseRevokeResponse(header=header(3))
    story.tell("LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=8), (3, 6), response=nothing)
    story.get(b"a", None, 3, (7, 8))
    story.witness(seen(kv(b"a", b"1", 2, lease=9)), gone(b"a", 3))


def a_stale_read_that_may_be(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.get(b"a", None, 1, (3, 4), serializable=True)


def a_deletion_by_a_stranger(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.get(b"a", None, 3, (3, 4))
    story.witness(seen(kv(b"a", b"1", 2)), gone(b"a", 3))


def a_revocation_at_the_revision_of_an_expiry(story: Story) -> None:
    """The lease that is revoked has no keys: the revision that it is answered at is of another's end."""
    revoke = rpc_pb2.LeaseRevokeRequest(ID=9)
    story.put(b"a", b"1", 2, (1, 2), lease=8)
    story.put(b"b", b"1", 3, (1, 2))
    story.tell(
        "LeaseRevoke", revoke, (4, 5), response=rpc_pb2.LeaseRevokeResponse(header=header(4))
    )
    story.put(b"b", b"2", 5, (6, 7))
    story.get(b"a", None, 5, (8, 9))
    pair = kv(b"a", b"1", 2, lease=8)
    story.witness(seen(pair), seen(kv(b"b", b"1", 3)), gone(b"a", 4), seen(kv(b"b", b"2", 5, create=3, version=2)), reached=5)  # fmt: skip


def a_deletion_of_several_that_finds_nothing(story: Story) -> None:
    """Seen through one key alone, it must not be taken for one that deletes."""
    several = rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"c")
    story.put(b"b", b"0", 2, (1, 2))
    story.delete(b"b", 1, 3, (3, 4))
    story.put(b"a", b"1", 4, (5, 6))
    nothing = rpc_pb2.DeleteRangeResponse(header=header(5))
    story.tell("DeleteRange", several, (7, 20), response=nothing)
    story.delete(b"a", 1, 5, (8, 19))


GOOD = [
    a_deletion_of_several_that_finds_nothing,
    a_read_of_the_other_of_two_at_once,
    a_swap_of_what_was_seen,
    an_unknown_write_that_comes_late,
    an_unknown_swap_of_an_unknown_write,
    a_lease_that_ends,
    a_revocation,
    the_end_of_a_lease_while_another_without_keys_is_revoked,
    a_stale_read_that_may_be,
    a_deletion_by_a_stranger,
    a_revocation_at_the_revision_of_an_expiry,
]


@pytest.mark.parametrize("tell", GOOD)
def test_what_is_right_is_accepted(tell: Callable[[Story], None]) -> None:
    story = Story()
    tell(story)
    verdict = check_linearizable(story.records)
    assert verdict.ok, str(verdict)


def a_stale_read(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"a", b"2", 3, (3, 4))
    story.get(b"a", kv(b"a", b"1", 2), 2, (5, 6))


def a_lost_write(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.get(b"a", None, 2, (3, 4))


def a_write_applied_twice(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.get(b"a", kv(b"a", b"1", 3, create=2, version=2), 3, (3, 4))


def a_value_that_comes_back(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.put(b"a", b"2", 3, (3, 10))
    story.get(b"a", kv(b"a", b"2", 3, create=2, version=2), 3, (4, 5))
    story.get(b"a", kv(b"a", b"1", 2), 2, (6, 7))


def two_swaps_of_one_value(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.swap(b"a", 2, b"2", 3, (3, 8))
    story.swap(b"a", 2, b"3", 4, (4, 9))


def a_swap_that_fails_for_no_reason(story: Story) -> None:
    story.put(b"a", b"1", 2, (1, 2))
    story.swap(b"a", 2, b"2", 2, (3, 4), succeeded=False)


def a_failed_write_that_is_there(story: Story) -> None:
    story.put(b"a", b"1", 0, (1, 2), status="fail")
    story.get(b"a", kv(b"a", b"1", 2), 2, (3, 4))


def an_unknown_write_before_its_call(story: Story) -> None:
    story.get(b"a", kv(b"a", b"1", 2), 2, (1, 2))
    story.put(b"a", b"1", 0, (3, 4), status="info")


def a_torn_transaction(story: Story) -> None:
    """Two keys are put together, and read as if they were not."""
    puts = [
        rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=b"1"))
        for key in (b"a", b"b")
    ]
    answer = rpc_pb2.TxnResponse(header=header(2), succeeded=True)
    answer.responses.add().response_put.SetInParent()
    answer.responses.add().response_put.SetInParent()
    story.tell("Txn", rpc_pb2.TxnRequest(success=puts), (1, 2), response=answer)
    half = rpc_pb2.RangeResponse(header=header(2), kvs=[kv(b"a", b"1", 2)], count=1)
    whole = rpc_pb2.RangeRequest(key=b"a", range_end=b"c")
    story.tell("Range", whole, (3, 4), response=half)


def a_deletion_that_counts_what_is_not_there(story: Story) -> None:
    story.delete(b"a", 1, 2, (1, 2))


BAD = [
    a_stale_read,
    a_lost_write,
    a_write_applied_twice,
    a_value_that_comes_back,
    two_swaps_of_one_value,
    a_swap_that_fails_for_no_reason,
    a_failed_write_that_is_there,
    an_unknown_write_before_its_call,
    a_torn_transaction,
    a_deletion_that_counts_what_is_not_there,
]


@pytest.mark.parametrize("tell", BAD)
def test_what_is_wrong_is_rejected(tell: Callable[[Story], None]) -> None:
    story = Story()
    tell(story)
    verdict = check_linearizable(story.records)
    assert verdict.rules == {"not linearizable"}
    assert verdict.violations[0].operations


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("unknown", [0.0, 0.1])
def test_right_runs_are_accepted(seed: int, unknown: float) -> None:
    run = Simulated(seed, unknown=unknown)
    for records in (run.calls, run.records, run.logged):
        verdict = check_linearizable(records)
        assert verdict.ok, str(verdict)


def test_a_large_history_is_decided() -> None:
    run = Simulated(3, operations=2000, clients=8, keys=20, unknown=0.02)
    verdict = check_linearizable(run.calls)
    assert verdict.ok, str(verdict)
    assert verdict.checked == 2000


def forge(response: rpc_pb2.RangeResponse) -> None:
    response.kvs[0].value = b"forged"


def is_late_read(call: Call, ret: Return) -> bool:
    shown = rpc_pb2.RangeResponse.FromString(ret.response)
    return call.op == "Range" and len(shown.kvs) == 1 and ret.id > 1500


def test_a_lie_late_in_a_large_history_is_found() -> None:
    run = Simulated(4, operations=2000, clients=8, keys=20)
    records: list[Record] = with_return(
        run.calls, is_late_read, edited(rpc_pb2.RangeResponse, forge)
    )
    assert check_linearizable(records).violations


def test_hints_are_only_hints() -> None:
    """Revisions of writes without any reader may be anything: nothing that is judged here depends on them."""
    story = Story()
    story.put(b"a", b"1", 9, (1, 2))
    story.put(b"a", b"2", 5, (3, 4))
    story.put(b"a", b"3", 7, (5, 6))
    assert check_linearizable(story.records).ok
