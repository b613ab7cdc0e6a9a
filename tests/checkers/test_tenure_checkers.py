"""Locks and elections: one at a time, in the order of the line, and nothing shown that never was."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coord.testing.check import Verdict, check_elections, check_locks
from coord.testing.history import Fault, SessionEvent, Tenure, TenureKind, TenurePhase
from coord.wire import rpc_pb2
from tests.checkers.stories import S, Story, gone, header, kv, seen

NAME = b"lock"


class Line(Story):
    """Attempts by hand; times in seconds."""

    kind: TenureKind = "lock"

    def note(self, attempt: int, phase: TenurePhase, at: float, **more: object) -> None:
        tenure = Tenure(
            kind=self.kind,
            attempt=attempt,
            client=f"c{attempt}",
            name=NAME,
            ts=int(at * S),
            phase=phase,
            **more,  # type: ignore[arg-type]
        )
        self.records.append(tenure)

    def held(
        self,
        attempt: int,
        token: int,
        called: float,
        won: float,
        leave: float | None,
        *,
        until: float = 100,
        key: bytes = b"",
        lease: int = 0,
    ) -> None:
        """An attempt that was won, and given back unless ``leave`` is None."""
        self.note(attempt, "call", called)
        self.note(attempt, "won", won, token=token, until=int(until * S), key=key, lease=lease)
        if leave is not None:
            self.note(attempt, "leave", leave, token=token, until=int(until * S))
            self.note(attempt, "left", leave + 0.1, token=token)


class Campaign(Line):
    kind: TenureKind = "elect"


# Good.


def one_after_the_other(line: Line) -> None:
    line.held(1, 5, 0, 1, 2)
    line.held(2, 6, 0, 2.1, 3)
    line.held(3, 9, 4, 5, None)


def an_expired_holder(line: Line) -> None:
    line.held(1, 5, 0, 1, None, until=3)
    line.held(2, 6, 0, 4, 5)


def a_holder_that_was_told(line: Line) -> None:
    line.held(1, 5, 0, 1, None)
    line.note(1, "lost", 3, token=5)
    line.held(2, 6, 0, 4, 5)


def a_holder_that_has_lost_it_when_it_leaves(line: Line) -> None:
    line.note(1, "call", 0)
    line.note(1, "won", 1, token=5, until=3 * S)
    line.held(2, 6, 0, 4, 5)
    line.note(1, "leave", 6, token=5, until=0)


def a_waiter_that_gave_up(line: Line) -> None:
    line.held(1, 5, 0, 1, 2)
    line.note(2, "call", 0.5)
    line.note(2, "failed", 1.5, error="LockTimeout")
    line.held(3, 7, 1, 2.5, 3)


def overlap_under_a_pause(line: Line) -> None:
    line.records.append(Fault(kind="pause", ts=0, phase="begin", on=("c1",)))
    line.held(1, 5, 0, 1, 9)
    line.held(2, 6, 0, 4, 5)


def writes_in_order(line: Line) -> None:
    line.held(1, 5, 0, 1, 2)
    line.held(2, 6, 0, 2.1, 3)
    line.note(1, "write", 1.5, token=5, revision=10)
    line.note(2, "write", 2.5, token=6, revision=11)


def a_key_that_is_there(line: Line) -> None:
    line.held(1, 2, 0, 1, None, key=b"lock/1", lease=8)
    line.witness(seen(kv(b"lock/1", b"", 2, lease=8)))


GOOD = [
    one_after_the_other,
    an_expired_holder,
    a_holder_that_was_told,
    a_holder_that_has_lost_it_when_it_leaves,
    a_waiter_that_gave_up,
    overlap_under_a_pause,
    writes_in_order,
    a_key_that_is_there,
]
CHECKS: list[tuple[type[Line], Callable[[Line], Verdict]]] = [
    (Line, lambda line: check_locks(line.records)),
    (Campaign, lambda line: check_elections(line.records)),
]


@pytest.mark.parametrize("tell", GOOD)
@pytest.mark.parametrize(("kind", "check"), CHECKS, ids=["lock", "election"])
def test_what_is_right_is_accepted(
    tell: Callable[[Line], None], kind: type[Line], check: Callable[[Line], Verdict]
) -> None:
    line = kind()
    tell(line)
    verdict = check(line)
    assert verdict.ok, str(verdict)
    assert verdict.checked


# Bad.


def two_holders(line: Line) -> None:
    line.held(1, 5, 0, 1, 4)
    line.held(2, 6, 0, 3, 5)


def a_token_given_twice(line: Line) -> None:
    line.held(1, 5, 0, 1, 2)
    line.held(2, 5, 0, 3, 4)


def a_token_that_falls(line: Line) -> None:
    line.held(1, 5, 0, 1, 2)
    line.held(2, 4, 3, 4, 5)


def a_waiter_passed_over(line: Line) -> None:
    line.held(1, 5, 0, 4, 5)
    line.held(2, 6, 0, 1, 2)


def a_stale_writer(line: Line) -> None:
    line.held(1, 5, 0, 1, None, until=2)
    line.held(2, 6, 0, 3, 4)
    line.note(2, "write", 3.5, token=6, revision=10)
    line.note(1, "write", 3.6, token=5, revision=11)


def a_key_that_never_was(line: Line) -> None:
    line.put(b"other", b"1", 2, (0, 1))
    line.held(1, 2, 0, 1, None, key=b"lock/1")


def a_key_that_was_gone_before_the_call(line: Line) -> None:
    line.put(b"other", b"1", 4, (0, S))
    line.held(1, 2, 2, 3, None, key=b"lock/1")
    line.witness(seen(kv(b"lock/1", b"", 2)), gone(b"lock/1", 3), seen(kv(b"other", b"1", 4)))


def a_key_left_behind(line: Line) -> None:
    line.note(1, "call", 0)
    line.note(1, "failed", 1, error="LockTimeout")
    revoke = rpc_pb2.LeaseRevokeRequest(ID=8)
    answer = rpc_pb2.LeaseRevokeResponse(header=header(2))
    line.tell("LeaseRevoke", revoke, (2 * S, 3 * S), response=answer)
    line.witness(seen(kv(b"lock/1", b"", 2, lease=8)))


def a_loss_told_too_late(line: Line) -> None:
    session = SessionEvent(client="c1", ts=1, lease=8, phase="open", ttl=2, sent=0)
    line.records.append(session)
    line.held(1, 5, 0, 1, None, until=2, lease=8)
    line.note(1, "lost", 4, token=5)


def a_line_that_stands_still(line: Line) -> None:
    line.held(1, 5, 0, 1, 2)
    line.note(2, "call", 0)
    line.note(3, "call", 50)
    line.note(3, "failed", 60)


BAD = [
    (two_holders, "overlap"),
    (a_token_given_twice, "token"),
    (a_token_that_falls, "token"),
    (a_waiter_passed_over, "order"),
    (a_stale_writer, "fence"),
    (a_key_that_never_was, "present"),
    (a_key_that_was_gone_before_the_call, "present"),
    (a_key_left_behind, "leftover"),
    (a_loss_told_too_late, "late loss"),
    (a_line_that_stands_still, "handover"),
]


@pytest.mark.parametrize(("tell", "rule"), BAD)
@pytest.mark.parametrize(("kind", "check"), CHECKS, ids=["lock", "election"])
def test_what_is_wrong_is_named(
    tell: Callable[[Line], None],
    rule: str,
    kind: type[Line],
    check: Callable[[Line], Verdict],
) -> None:
    line = kind()
    tell(line)
    assert rule in check(line).rules


def guarded(line: Line, token: int, revision: int, at: tuple[int, int]) -> None:
    """A transaction that compares a lock key's create revision."""
    compare = rpc_pb2.Compare(
        key=b"lock/%d" % token, target=rpc_pb2.Compare.CREATE, create_revision=token
    )
    put = rpc_pb2.PutRequest(key=b"data", value=b"%d" % revision)
    answer = rpc_pb2.TxnResponse(header=header(revision), succeeded=True)
    answer.responses.add().response_put.SetInParent()
    request = rpc_pb2.TxnRequest(compare=[compare], success=[rpc_pb2.RequestOp(request_put=put)])
    line.tell("Txn", request, at, response=answer)


def test_guarded_transactions_are_fenced_writes() -> None:
    line = Line()
    line.held(1, 5, 0, 1, None, until=2)
    line.held(2, 6, 0, 3, 4)
    guarded(line, 5, 10, (1, 2))
    guarded(line, 6, 11, (3, 4))
    assert check_locks(line.records).ok
    guarded(line, 5, 12, (5, 6))
    assert check_locks(line.records).rules == {"fence"}


# Elections.

FIRST = (kv(b"lock/1", b"one", 2, lease=1), kv(b"lock/2", b"two", 3, lease=2))


def campaign(*observed: tuple[int, int, bytes], wrote: tuple[int, int] | None = None) -> Verdict:
    """One leads, proclaims at 4, resigns at 5; then the other leads, and resigns at 6."""
    line = Campaign()
    line.held(1, 2, 0, 1, 2, key=b"lock/1")
    line.held(2, 3, 0, 3, 4, key=b"lock/2")
    line.note(1, "write", 1.5, token=2, revision=4, value=b"new")
    if wrote is not None:
        line.note(2, "write", 3.5, token=wrote[0], revision=wrote[1])
    for token, revision, value in observed:
        line.note(9, "seen", 5, token=token, revision=revision, value=value)
    proclaimed = kv(b"lock/1", b"new", 4, create=2, version=2, lease=1)
    line.witness(*map(seen, FIRST), seen(proclaimed), gone(b"lock/1", 5), gone(b"lock/2", 6))
    return check_elections(line.records)


ONE, NEW, TWO, NOBODY = (2, 2, b"one"), (2, 4, b"new"), (3, 3, b"two"), (0, 0, b"")


@pytest.mark.parametrize(
    "observed",
    [[], [ONE, NEW, TWO, NOBODY], [NOBODY, ONE, TWO], [NEW, NOBODY], [TWO]],
)
def test_what_may_be_observed(observed: list[tuple[int, int, bytes]]) -> None:
    verdict = campaign(*observed)
    assert verdict.ok, str(verdict)


@pytest.mark.parametrize(
    "observed",
    [[TWO, ONE], [NEW, ONE], [ONE, NOBODY, TWO], [(2, 2, b"other")], [(4, 4, b"x")], [TWO, NOBODY, TWO]],
)  # fmt: skip
def test_what_may_not_be_observed(observed: list[tuple[int, int, bytes]]) -> None:
    assert campaign(*observed).rules == {"observation"}


def test_only_the_leader_proclaims() -> None:
    assert campaign(wrote=(3, 5)).ok
    assert campaign(wrote=(3, 4)).rules == {"proclamation"}
    assert campaign(wrote=(2, 5)).rules == {"proclamation"}
