"""Leases: not a moment too short, not for ever, and whole at their end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from coord.testing.check import Verdict, check_leases
from coord.testing.history import Fault, SessionEvent
from coord.wire import rpc_pb2
from tests.checkers.stories import S, Story, gone, header, kv, seen

L = 77


def grant(story: Story, at: tuple[int, int], *, ttl: int = 10) -> None:
    answer = rpc_pb2.LeaseGrantResponse(header=header(1), ID=L, TTL=ttl)
    story.tell("LeaseGrant", rpc_pb2.LeaseGrantRequest(ID=L, TTL=ttl), at, response=answer)


def renew(story: Story, at: tuple[int, int], *, ttl: int = 10) -> None:
    answer = rpc_pb2.LeaseKeepAliveResponse(ID=L, TTL=ttl)
    story.tell("LeaseKeepAlive", rpc_pb2.LeaseKeepAliveRequest(ID=L), at, response=answer)


def left(story: Story, at: tuple[int, int], ttl: int) -> None:
    answer = rpc_pb2.LeaseTimeToLiveResponse(ID=L, TTL=ttl, grantedTTL=10 if ttl >= 0 else 0)
    story.tell("LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveRequest(ID=L), at, response=answer)


def revoke(story: Story, at: tuple[int, int], revision: int) -> None:
    answer = rpc_pb2.LeaseRevokeResponse(header=header(revision))
    story.tell("LeaseRevoke", rpc_pb2.LeaseRevokeRequest(ID=L), at, response=answer)


def attached(story: Story) -> None:
    """Granted in the first second, two keys in the second one."""
    grant(story, (0, S))
    story.put(b"a", b"1", 2, (S, S + 1), lease=L)
    story.put(b"b", b"1", 3, (S + 2, 2 * S), lease=L)


PUTS = (seen(kv(b"a", b"1", 2, lease=L)), seen(kv(b"b", b"1", 3, lease=L)))
ENDED = (gone(b"a", 4), gone(b"b", 4))


# Good.


def expired_in_time(story: Story) -> None:
    attached(story)
    story.witness(*PUTS, *ENDED, at=10 * S)


def expired_a_little_early_within_the_drift(story: Story) -> None:
    attached(story)
    story.witness(*PUTS, *ENDED, at=10 * S - S // 20)


def renewed_and_expired(story: Story) -> None:
    attached(story)
    renew(story, (8 * S, 9 * S))
    left(story, (12 * S, 13 * S), 5)
    left(story, (20 * S, 21 * S), -1)
    story.witness(*PUTS, *ENDED, at=18 * S)


def revoked(story: Story) -> None:
    attached(story)
    revoke(story, (3 * S, 4 * S), 4)
    left(story, (5 * S, 6 * S), -1)
    renew(story, (5 * S, 6 * S), ttl=0)
    story.put(b"c", b"1", 0, (5 * S, 6 * S), lease=L, status="fail", error="LeaseNotFound: gone")
    story.witness(*PUTS, *ENDED, at=4 * S)


def a_renewal_without_an_answer(story: Story) -> None:
    attached(story)
    story.tell("LeaseKeepAlive", rpc_pb2.LeaseKeepAliveRequest(ID=L), (8 * S, 9 * S), status="info")
    left(story, (17 * S, 17 * S + 1), 1)


def a_new_leader(story: Story) -> None:
    attached(story)
    story.records.append(Fault(kind="kill", ts=9 * S, phase="begin"))
    left(story, (18 * S, 18 * S + 1), 1)


def a_session(story: Story) -> None:
    phases = (("open", 0), ("renewed", 5 * S), ("closed", 7 * S))
    for phase, ts in phases:
        story.records.append(
            SessionEvent(client="c", ts=ts, lease=L, phase=phase, ttl=10, sent=ts - 1)  # type: ignore[arg-type]
        )
    left(story, (8 * S, 9 * S), -1)


def deleted_by_hand(story: Story) -> None:
    attached(story)
    story.delete(b"a", 1, 4, (3 * S, 4 * S))
    story.delete(b"b", 1, 5, (4 * S, 5 * S))
    story.witness(*PUTS, gone(b"a", 4), gone(b"b", 5), at=5 * S)


GOOD = [
    expired_in_time,
    expired_a_little_early_within_the_drift,
    renewed_and_expired,
    revoked,
    a_renewal_without_an_answer,
    a_new_leader,
    a_session,
    deleted_by_hand,
]


def judged(tell: Callable[[Story], None]) -> Verdict:
    story = Story()
    tell(story)
    return check_leases(story.records)


@pytest.mark.parametrize("tell", GOOD)
def test_what_is_right_is_accepted(tell: Callable[[Story], None]) -> None:
    verdict = judged(tell)
    assert verdict.ok, str(verdict)
    assert verdict.checked == 1


# Bad.


def expired_early(story: Story) -> None:
    attached(story)
    story.witness(*PUTS, *ENDED, at=9 * S)


def expired_in_spite_of_a_renewal(story: Story) -> None:
    attached(story)
    renew(story, (8 * S, 9 * S))
    story.witness(*PUTS, *ENDED, at=12 * S)


def said_to_be_gone_early(story: Story) -> None:
    grant(story, (0, S))
    left(story, (2 * S, 3 * S), -1)


def not_renewed_early(story: Story) -> None:
    grant(story, (0, S))
    renew(story, (2 * S, 3 * S), ttl=0)


def refused_early(story: Story) -> None:
    grant(story, (0, S))
    story.put(b"c", b"1", 0, (5 * S, 6 * S), lease=L, status="fail", error="LeaseNotFound: gone")


def renewed_after_its_revocation(story: Story) -> None:
    grant(story, (0, S))
    revoke(story, (2 * S, 3 * S), 1)
    renew(story, (4 * S, 5 * S))


def renewed_after_its_end(story: Story) -> None:
    grant(story, (0, S))
    left(story, (12 * S, 13 * S), -1)
    renew(story, (14 * S, 15 * S))


def attached_after_its_revocation(story: Story) -> None:
    attached(story)
    revoke(story, (3 * S, 4 * S), 4)
    story.put(b"c", b"1", 5, (5 * S, 6 * S), lease=L)


def attached_after_its_end(story: Story) -> None:
    grant(story, (0, S))
    left(story, (12 * S, 13 * S), -1)
    story.put(b"c", b"1", 5, (14 * S, 15 * S), lease=L)


def half_of_its_keys(story: Story) -> None:
    attached(story)
    story.witness(*PUTS, gone(b"a", 4), gone(b"b", 5), at=10 * S)


def half_of_its_keys_revoked(story: Story) -> None:
    attached(story)
    revoke(story, (3 * S, 4 * S), 4)
    story.witness(*PUTS, gone(b"a", 4), at=4 * S)


def never_ending(story: Story) -> None:
    attached(story)
    left(story, (17 * S, 18 * S), 1)


def never_ending_keys(story: Story) -> None:
    attached(story)
    story.get(b"a", kv(b"a", b"1", 2, lease=L), 3, (17 * S, 18 * S))


BAD = [
    (expired_early, "early"),
    (expired_in_spite_of_a_renewal, "early"),
    (said_to_be_gone_early, "early"),
    (not_renewed_early, "early"),
    (refused_early, "early"),
    (renewed_after_its_revocation, "revived"),
    (renewed_after_its_end, "revived"),
    (attached_after_its_revocation, "dead"),
    (attached_after_its_end, "dead"),
    (half_of_its_keys, "torn"),
    (half_of_its_keys_revoked, "torn"),
    (never_ending, "late"),
    (never_ending_keys, "late"),
]


@pytest.mark.parametrize(("tell", "rule"), BAD)
def test_what_is_wrong_is_named(tell: Callable[[Story], None], rule: str) -> None:
    verdict = judged(tell)
    assert rule in verdict.rules, str(verdict)
    assert any(f"lease {L:x}" in each.operations for each in verdict.violations)


def test_an_unknown_deletion_or_a_stranger_may_have_been_it() -> None:
    story = Story()
    attached(story)
    story.delete(b"a", 1, 0, (3 * S, 4 * S), status="info")
    story.delete(b"b", 1, 0, (3 * S, 4 * S), status="info")
    story.witness(*PUTS, *ENDED, at=5 * S)
    assert check_leases(story.records).ok
    story = Story()
    attached(story)
    story.witness(*PUTS, *ENDED, at=5 * S)
    assert check_leases(story.records).rules == {"early"}
    assert check_leases(story.records, strangers=[b"a", b"b"]).ok
