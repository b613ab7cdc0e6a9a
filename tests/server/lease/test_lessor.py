"""The table of leases: what is replicated, and deadlines on the primary (etcd API: Lease)."""

from __future__ import annotations

import pytest

from coord.runtime import InvariantViolation
from coord_server.lease import MAX_TTL_S, Lessor, minimum_ttl_s
from coord_server.lease.lessor import SPREAD_PER_SECOND
from coord_server.lease.record import decode_record, encode_record, record_key


def primary(*leases: tuple[int, int]) -> Lessor:
    lessor = Lessor(2)
    lessor.promote(0.0, 0.0)
    for lease_id, ttl in leases:
        lessor.grant(lease_id, ttl)
    lessor.settle(0.0)
    return lessor


@pytest.mark.parametrize(
    ("election_ms", "heartbeat_ms", "ttl"),
    [(1000, 100, 2), (10_000, 500, 15), (500, 100, 1), (1000, 300, 2), (50, 10, 1)],
)
def test_the_minimum_follows_from_the_election_timeout(
    election_ms: int, heartbeat_ms: int, ttl: int
) -> None:
    assert minimum_ttl_s(election_ms=election_ms, heartbeat_ms=heartbeat_ms) == ttl


@pytest.mark.parametrize("asked", [0, -5, 1, 2])  # gotcha 80
def test_short_ttls_are_raised(asked: int) -> None:
    lessor = Lessor(2)
    assert lessor.grant(7, asked) == 2
    assert lessor.granted_ttl(7) == 2


@pytest.mark.parametrize("lease_id", [-1, -(2**63), 2**63 - 1, 1])  # gotcha 81
def test_any_id_but_zero_is_an_id(lease_id: int) -> None:
    lessor = Lessor(2)
    lessor.grant(lease_id, MAX_TTL_S)
    assert lessor.exists(lease_id)
    key, value = lessor.encode_record(lease_id)
    assert key == record_key(lease_id)
    assert len(key) == 8
    assert decode_record(value) == (lease_id, MAX_TTL_S, 0)
    again = Lessor(2)
    again.load([(key, value)])
    assert again.granted_ttl(lease_id) == MAX_TTL_S


def test_records_are_those_of_etcd() -> None:
    # leasepb.Lease{ID: 0x1234, TTL: 60}, and with RemainingTTL 5.
    assert encode_record(0x1234, 60, 0) == bytes.fromhex("08b424103c")
    assert encode_record(0x1234, 60, 5) == bytes.fromhex("08b424103c1805")
    assert record_key(-1) == b"\xff" * 8


@pytest.mark.parametrize("value", [b"\x08", b"\x20\x01", b"\x0a\x01x", b"\x08\x80"])
def test_broken_records_are_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="lease record"):
        Lessor(2).load([(b"", value)])


def test_a_loaded_ttl_below_the_minimum_is_raised() -> None:
    lessor = Lessor(5)
    lessor.load([(record_key(1), encode_record(1, 2, 0))])
    assert lessor.granted_ttl(1) == 5


def test_a_lease_is_granted_once() -> None:
    lessor = primary((1, 10))
    with pytest.raises(InvariantViolation):
        lessor.grant(1, 10)


def test_revoking_gives_the_keys_in_order() -> None:  # gotcha 125
    lessor = primary((1, 10))
    for key in [b"b", b"a/2", b"a", b"\xff", b"c"]:
        lessor.attach(1, key)
    lessor.detach(1, b"c")
    assert lessor.keys(1) == [b"a", b"a/2", b"b", b"\xff"]
    assert lessor.revoke(1) == [b"a", b"a/2", b"b", b"\xff"]
    assert not lessor.exists(1)
    assert lessor.revoke(1) == []


def test_unknown_leases_are_passed_over() -> None:
    lessor = primary()
    lessor.attach(0, b"k")
    lessor.attach(5, b"k")
    lessor.detach(5, b"k")
    lessor.checkpoint(5, 3)
    lessor.retry(5)
    assert lessor.keys(5) == []
    assert lessor.remaining(5, 0.0) is None
    assert lessor.renew(5, 0.0) is None
    assert not lessor.is_expired(5, 0.0)
    assert lessor.granted_ttl(5) == 0


def test_time_starts_when_the_grant_is_settled() -> None:
    lessor = Lessor(2)
    lessor.promote(0.0, 0.0)
    lessor.grant(1, 10)
    assert lessor.remaining(1, 3.0) == 10.0
    lessor.settle(4.0)
    assert lessor.remaining(1, 5.0) == 9.0
    lessor.settle(6.0)
    assert lessor.remaining(1, 6.0) == 8.0


def test_a_renewal_before_settling_counts() -> None:
    lessor = Lessor(2)
    lessor.promote(0.0, 0.0)
    lessor.grant(1, 10)
    assert lessor.renew(1, 3.0) == 10
    lessor.settle(4.0)
    assert lessor.expired(12.9, 5) == []
    assert lessor.expired(13.0, 5) == [1]


def test_expiry_is_reported_once_and_the_longest_overdue_first() -> None:
    lessor = primary((1, 30), (2, 10), (3, 20))
    assert lessor.expired(9.9, 10) == []
    assert lessor.expired(30.0, 2) == [2, 3]
    assert lessor.expired(30.0, 2) == [1]
    assert lessor.expired(99.0, 2) == []
    lessor.retry(3)
    lessor.retry(3)
    assert lessor.expired(99.0, 5) == [3]


def test_an_expired_lease_cannot_be_renewed() -> None:  # gotcha 92
    lessor = primary((1, 10))
    assert lessor.renew(1, 9.9) == 10
    assert lessor.is_expired(1, 19.9)
    assert lessor.renew(1, 19.9) is None
    assert lessor.remaining(1, 21.9) == 19.9 - 21.9
    assert lessor.expired(19.9, 5) == [1]
    assert lessor.renew(1, 19.9) is None


def test_whoever_waits_for_the_end_hears_after_the_turn() -> None:
    lessor = primary((1, 10), (2, 10))
    told: list[str] = []
    lessor.when_gone(1, lambda: told.append("one"))
    lessor.when_gone(1, lambda: told.append("one again"))
    lessor.when_gone(2, lambda: told.append("two"))
    lessor.when_gone(3, lambda: told.append("three"))
    lessor.revoke(1)
    assert told == []
    lessor.settle(0.0)
    assert sorted(told) == ["one", "one again", "three"]
    lessor.demote()
    lessor.settle(0.0)
    assert told[-1] == "two"
    lessor.settle(0.0)
    assert len(told) == 4


def test_nothing_expires_on_a_follower() -> None:
    lessor = Lessor(2)
    lessor.grant(1, 10)
    lessor.settle(0.0)
    assert lessor.expired(1e9, 5) == []
    assert lessor.renew(1, 1.0) is None
    assert not lessor.is_expired(1, 1e9)
    assert lessor.remaining(1, 1e9) == 10.0


def test_promotion_gives_the_full_time_and_an_extension() -> None:  # gotchas 88, 89
    lessor = primary((1, 10), (2, 60))
    lessor.expired(10.0, 5)
    lessor.demote()
    assert lessor.expired(1e9, 5) == []
    lessor.checkpoint(2, 5)
    lessor.promote(100.0, 1.0)
    assert lessor.remaining(1, 100.0) == 11.0
    assert lessor.remaining(2, 100.0) == 6.0
    assert lessor.ids() == [2, 1]
    assert lessor.expired(106.0, 5) == [2]
    assert lessor.renew(1, 107.0) == 10


def test_a_crowd_of_leases_is_spread() -> None:
    lessor = Lessor(2)
    count = 3 * SPREAD_PER_SECOND
    for lease_id in range(1, count + 1):
        lessor.grant(lease_id, 10)
    lessor.promote(0.0, 1.0)
    assert lessor.expired(10.99, count) == []
    due = [len(lessor.expired(11.0 + second, count)) for second in range(4)]
    assert due == [SPREAD_PER_SECOND] * 3 + [0]


def test_few_leases_are_not_spread() -> None:
    lessor = Lessor(2)
    for lease_id in range(1, 1000):
        lessor.grant(lease_id, 10)
    lessor.promote(0.0, 1.0)
    assert len(lessor.expired(11.0, 2000)) == 999


def test_forgotten_leases_do_not_pile_up() -> None:
    lessor = primary()
    for lease_id in range(1, 20_000):
        lessor.grant(lease_id, MAX_TTL_S)
        lessor.settle(0.0)
        lessor.revoke(lease_id)
    assert len(lessor) == 0
    assert len(lessor._heap) < 3_000


def test_a_lease_under_an_old_id_is_a_new_lease() -> None:
    lessor = primary((1, 10))
    lessor.revoke(1)
    lessor.grant(1, 50)
    lessor.settle(5.0)
    assert lessor.expired(54.9, 5) == []
    assert lessor.expired(55.0, 5) == [1]
