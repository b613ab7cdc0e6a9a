"""Put, DeleteRange and leases under keys, by the rows of their tables and the API's known traps."""

from __future__ import annotations

import pytest

from coord.wire import kv_pb2
from coord_server import errors
from coord_server.errors import Refused
from coord_server.mvcc.events import Event
from coord_server.ops import OpKind
from tests.server.mvcc.driver import TO_END, Driver


def pair(driver: Driver, key: bytes = b"k") -> tuple[bytes, int, int, int, int]:
    (kv,) = driver.get(key).kvs
    return kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease


def decoded(events: list[Event]) -> list[kv_pb2.Event]:
    return [kv_pb2.Event.FromString(event.body) for event in events]


def test_the_same_value_again_is_a_change() -> None:
    driver = Driver()
    driver.put(b"k", b"v")
    assert driver.put(b"k", b"v").header.revision == 3
    assert pair(driver) == (b"v", 2, 3, 2, 0)


def test_gotcha_21_prev_kv_of_a_new_key() -> None:
    driver = Driver()
    assert not driver.put(b"k", b"1", prev_kv=True).HasField("prev_kv")
    response = driver.put(b"k", b"2", prev_kv=True)
    assert (response.prev_kv.value, response.prev_kv.mod_revision) == (b"1", 2)
    driver.delete(b"k")
    assert not driver.put(b"k", b"3", prev_kv=True).HasField("prev_kv")


def test_gotcha_22_ignore_value_without_a_lease_detaches() -> None:
    driver = Driver()
    driver.grant(7)
    driver.put(b"k", b"v", lease=7)
    driver.put(b"k", ignore_value=True)
    assert pair(driver) == (b"v", 2, 3, 2, 0)
    assert driver.lessor.keys(7) == []


def test_gotcha_23_ignore_value_with_a_lease_moves() -> None:
    driver = Driver()
    driver.grant(7)
    driver.grant(8)
    driver.put(b"k", b"v", lease=7)
    driver.put(b"k", ignore_value=True, lease=8)
    assert pair(driver) == (b"v", 2, 3, 2, 8)
    assert (driver.lessor.keys(7), driver.lessor.keys(8)) == ([], [b"k"])


def test_gotcha_24_ignore_flags_do_not_show_the_previous_pair() -> None:
    driver = Driver()
    driver.put(b"k", b"v")
    assert not driver.put(b"k", ignore_value=True).HasField("prev_kv")
    assert not driver.put(b"k", b"w", ignore_lease=True).HasField("prev_kv")
    assert driver.put(b"k", ignore_value=True, prev_kv=True).prev_kv.value == b"w"


def test_gotcha_25_both_flags() -> None:
    driver = Driver()
    driver.grant(7)
    driver.put(b"k", b"v", lease=7)
    driver.put(b"k", ignore_value=True, ignore_lease=True)
    assert pair(driver) == (b"v", 2, 3, 2, 7)
    assert driver.lessor.keys(7) == [b"k"]


def test_ignore_lease_keeps_the_lease_and_takes_the_value() -> None:
    driver = Driver()
    driver.grant(7)
    driver.put(b"k", b"v", lease=7)
    driver.put(b"k", b"w", ignore_lease=True)
    assert pair(driver) == (b"w", 2, 3, 2, 7)


@pytest.mark.parametrize(("value", "lease"), [(1, 0), (0, 1)])
def test_ignore_flags_need_the_key(value: int, lease: int) -> None:
    driver = Driver()
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            driver.put(b"k", ignore_value=value, ignore_lease=lease)
        assert refused.value.spec is errors.KEY_NOT_FOUND
        driver.put(b"k")
        driver.delete(b"k")


def test_gotcha_26_unknown_lease_writes_nothing() -> None:
    driver = Driver()
    with pytest.raises(Refused) as refused:
        driver.put(b"k", lease=404)
    assert refused.value.spec is errors.LEASE_NOT_FOUND
    assert (driver.store.revision, driver.get(b"k").count, driver.last.events) == (1, 0, [])


def test_unknown_lease_comes_before_missing_key() -> None:
    driver = Driver()
    with pytest.raises(Refused) as refused:
        driver.put(b"k", lease=404, ignore_value=1)
    assert refused.value.spec is errors.LEASE_NOT_FOUND


def test_gotcha_30_deleting_nothing() -> None:
    driver = Driver()
    driver.put(b"a")
    response = driver.delete(b"b", TO_END, prev_kv=True)
    assert (response.deleted, list(response.prev_kvs), response.header.revision) == (0, [], 2)
    assert driver.last.events == []


def test_gotcha_31_one_delete_is_one_revision() -> None:
    driver = Driver()
    for key in (b"c", b"a", b"b", b"d"):
        driver.put(key, key)
    response = driver.delete(b"a", b"d", prev_kv=True)
    assert (response.deleted, response.header.revision) == (3, 6)
    assert [(kv.key, kv.value) for kv in response.prev_kvs] == [(k, k) for k in (b"a", b"b", b"c")]
    assert [(e.key, e.mod_revision) for e in driver.last.events] == [
        (b"a", 6),
        (b"b", 6),
        (b"c", 6),
    ]
    assert driver.delete(b"d").deleted == 1
    assert driver.store.revision == 7


def test_gotcha_32_delete_events_carry_key_and_revision() -> None:
    driver = Driver()
    driver.put(b"a", b"1")
    driver.delete(b"a")
    (event,) = decoded(driver.last.events)
    expected = kv_pb2.Event(type=kv_pb2.Event.DELETE)
    expected.kv.key, expected.kv.mod_revision = b"a", 3
    assert event == expected
    assert driver.last.events[0].store_prev is not None


def test_gotcha_33_a_recreated_key_starts_anew() -> None:
    driver = Driver()
    driver.put(b"k", b"1")
    driver.put(b"k", b"2")
    driver.delete(b"k")
    driver.put(b"k", b"3")
    assert pair(driver) == (b"3", 5, 5, 1, 0)
    assert driver.last.events[0].is_create


def test_gotcha_61_empty_value_is_a_put_event() -> None:
    driver = Driver()
    driver.put(b"k")
    (event,) = decoded(driver.last.events)
    assert (event.type, event.kv.key, event.kv.version) == (kv_pb2.Event.PUT, b"k", 1)


def test_events_carry_the_pair_before_when_it_is_at_hand() -> None:
    driver = Driver()
    driver.put(b"k", b"1")
    driver.put(b"k", b"2")
    (event,) = driver.last.events
    assert event.body_with_prev is not None
    whole = kv_pb2.Event.FromString(event.body_with_prev)
    assert (whole.kv.value, whole.prev_kv.value, whole.prev_kv.version) == (b"2", b"1", 1)


def test_gotcha_62_and_87_revoking() -> None:
    driver = Driver()
    driver.grant(1)
    driver.grant(2)
    for key in (b"c", b"a", b"b"):
        driver.put(key, lease=1)
    response = driver.revoke(1)
    assert response.header.revision == 5
    assert [(e.kind, e.key, e.mod_revision) for e in driver.last.events] == [
        (1, b"a", 5),
        (1, b"b", 5),
        (1, b"c", 5),
    ]
    assert driver.revoke(2).header.revision == 5
    with pytest.raises(Refused) as refused:
        driver.revoke(2)
    assert refused.value.spec is errors.LEASE_NOT_FOUND


def test_expiry_is_a_revocation() -> None:
    driver = Driver()
    driver.grant(1)
    driver.put(b"a", lease=1)
    driver.revoke(1, kind=OpKind.LEASE_EXPIRE)
    assert (driver.get(b"a").count, driver.lessor.ids()) == (0, [])


def test_gotcha_80_and_91_granting() -> None:
    driver = Driver()
    for lease_id, ttl, granted in (
        (1, 0, 2),
        (2, -5, 2),
        (3, 1, 2),
        (4, 60, 60),
        (-9, 9_000_000_000, 9_000_000_000),
    ):
        response = driver.grant(lease_id, ttl)
        assert (response.ID, response.TTL, response.error, response.header.revision) == (
            lease_id,
            granted,
            "",
            1,
        )
    with pytest.raises(Refused) as refused:
        driver.grant(4)
    assert refused.value.spec is errors.LEASE_EXIST
    with pytest.raises(Refused) as refused:
        driver.grant(4, 9_000_000_001)
    assert refused.value.spec is errors.LEASE_TTL_TOO_LARGE


@pytest.mark.parametrize("restart", [False, True])
def test_gotcha_85_and_86_a_key_has_the_lease_of_its_latest_put(restart: bool) -> None:
    driver = Driver()
    driver.grant(1)
    driver.grant(2)
    driver.put(b"moved", lease=1)
    driver.put(b"moved", lease=2)
    driver.put(b"freed", lease=1)
    driver.put(b"freed")
    driver.put(b"gone", lease=1)
    driver.delete(b"gone")
    driver.put(b"back", lease=1)
    driver.delete(b"back")
    driver.put(b"back", lease=2)
    if restart:
        driver = driver.restart()
    driver.revoke(1)
    assert list(driver.everything()) == [b"back", b"freed", b"moved"]
    driver.revoke(2)
    assert list(driver.everything()) == [b"freed"]


def test_gotcha_81_any_lease_id_survives_a_restart() -> None:
    driver = Driver()
    for lease_id in (-1, -(2**63), 2**63 - 1):
        driver.grant(lease_id, 50)
        driver.put(b"%d" % lease_id, lease=lease_id)
    driver = driver.restart()
    for lease_id in (-1, -(2**63), 2**63 - 1):
        assert driver.lessor.granted_ttl(lease_id) == 50
        assert driver.get(b"%d" % lease_id).kvs[0].lease == lease_id
        driver.revoke(lease_id)
    assert driver.everything() == {}
    assert driver.restart().lessor.ids() == []


def test_a_dead_key_keeps_no_lease_over_a_restart() -> None:
    driver = Driver()
    driver.grant(1)
    driver.put(b"k", lease=1)
    driver.delete(b"k")
    driver = driver.restart()
    driver.put(b"k")
    history = driver.store.find(b"k")
    assert history is not None
    assert history.lease == 0
    assert driver.lessor.keys(1) == []
