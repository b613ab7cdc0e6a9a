"""What the registry decides without the store: strategies, ejection, the brake, entries, verdicts of health."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coord
from coord.recipes.registry.brake import Brake
from coord.recipes.registry.ejection import ERRORS_IN_A_ROW, Ejection
from coord.recipes.registry.health import HealthCheck, Verdict
from coord.recipes.registry.instance import Instance, Record, RecordCodec
from coord.recipes.registry.picking import StrategyName, strategy_of
from coord.runtime import real_env

RAND = real_env().rand
PICKS = 100_000


def instance(
    number: int, *, weight: int = 1, zone: str = "", health: str = "serving"
) -> coord.Instance:
    made = Instance(
        key=f"s/i{number}".encode(),
        id=f"i{number}",
        addr=f"h{number}:1",
        token=number + 1,
        revision=number + 1,
        lease_id=1,
        weight=weight,
        zone=zone,
    )
    return replace(made, health=health)  # type: ignore[arg-type] # one of the three


def some(count: int) -> tuple[coord.Instance, ...]:
    return tuple([instance(number) for number in range(count)])


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def mono(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now


# -- strategies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1, 1, 1), (5, 3, 2), (97, 2, 1), (1, 0, 1), (1000, 1000, 1)])
def test_weights_hold_within_two_percent(weights: tuple[int, ...]) -> None:
    instances = tuple([instance(n, weight=w) for n, w in enumerate(weights)])
    strategy = strategy_of("weighted", RAND)
    picked = Counter(strategy.pick(instances, None).id for _ in range(PICKS))
    for each in instances:
        share = PICKS * each.weight / sum(weights)
        assert abs(picked[each.id] - share) <= max(0.02 * share, 5)


def test_weighted_picks_are_evenly_mixed() -> None:
    # Nine of ten go to one: nowhere do the others come in a lump, nor does that one.
    instances = (instance(0, weight=9), instance(1, weight=1))
    strategy = strategy_of("weighted", RAND)
    seen = [strategy.pick(instances, None).id for _ in range(5000)]
    places = [place for place, ident in enumerate(seen) if ident == "i1"]
    gaps = [after - before for before, after in pairwise(places)]
    assert min(gaps) >= 5
    assert max(gaps) <= 21


def test_nobody_wants_any_still_picks() -> None:
    instances = (instance(0, weight=0), instance(1, weight=0))
    strategy = strategy_of("weighted", RAND)
    assert {strategy.pick(instances, None).id for _ in range(10)} == {"i0", "i1"}


def test_round_robin_takes_turns() -> None:
    instances = some(3)
    strategy = strategy_of("round_robin", RAND)
    picked = [strategy.pick(instances, None) for _ in range(30)]
    assert Counter(each.id for each in picked) == {"i0": 10, "i1": 10, "i2": 10}
    assert all(a != b for a, b in pairwise(picked))


def test_random_reaches_everybody() -> None:
    instances = some(4)
    strategy = strategy_of("random", RAND)
    picked = Counter(strategy.pick(instances, None).id for _ in range(4000))
    assert set(picked) == {"i0", "i1", "i2", "i3"}
    assert min(picked.values()) > 700


def test_least_loaded_avoids_the_busy_one() -> None:
    busy, free = instances = some(2)
    strategy = strategy_of("least_loaded", RAND)
    # Calls to the busy one never end, those to the other end at once.
    for _ in range(200):
        picked = strategy.pick(instances, None)
        if picked == free:
            strategy.report(picked, ok=True, latency=0.01)
    assert len(strategy._under_way[busy.key]) <= 2  # type: ignore[attr-defined] # looks inside


def test_least_loaded_prefers_the_faster_of_equals() -> None:
    slow, fast = instances = some(2)
    strategy = strategy_of("least_loaded", RAND)
    for each, latency in ((slow, 1.0), (fast, 0.1)):
        strategy.report(each, ok=True, latency=latency)
    for _ in range(20):
        picked = strategy.pick(instances, None)
        assert picked == fast
        strategy.report(picked, ok=True, latency=0.1)


@pytest.mark.parametrize("count", [2, 5, 20])
def test_sticky_keys_move_no_more_than_they_must(count: int) -> None:
    strategy = strategy_of("sticky", RAND)
    before, after = some(count), some(count + 1)
    keys = [f"user-{number}" for number in range(4000)]
    moved = [key for key in keys if strategy.pick(before, key).id != strategy.pick(after, key).id]
    # Whatever moves, moves to the new one, and that is its fair share.
    assert all(strategy.pick(after, key).id == f"i{count}" for key in moved)
    assert len(moved) <= len(keys) / (count + 1) * 1.2
    assert len(moved) >= len(keys) / (count + 1) * 0.8


def test_sticky_is_the_same_in_every_process_and_order() -> None:
    instances = some(5)
    for key in ("a", b"b", "c"):
        one = strategy_of("sticky", RAND).pick(instances, key)
        assert strategy_of("sticky", RAND).pick(instances[::-1], key) == one
    assert (
        strategy_of("sticky", RAND).pick(instances, "user-1").id == "i1"
    )  # pinned: others may have it


def test_sticky_weighs() -> None:
    instances = (instance(0, weight=3), instance(1, weight=1), instance(2, weight=0))
    strategy = strategy_of("sticky", RAND)
    picked = Counter(strategy.pick(instances, f"k{number}").id for number in range(8000))
    assert abs(picked["i0"] - 6000) < 240
    assert picked["i2"] == 0


def test_sticky_needs_a_key() -> None:
    with pytest.raises(coord.InvalidArgument, match="key"):
        strategy_of("sticky", RAND).pick(some(2), None)


def test_an_unknown_strategy_is_refused() -> None:
    with pytest.raises(coord.InvalidArgument, match="round_robin"):
        strategy_of("best", RAND)  # type: ignore[arg-type] # the point


# -- ejection ------------------------------------------------------------------------------------------------------


def fail(ejection: Ejection, who: coord.Instance, everybody: tuple[coord.Instance, ...]) -> None:
    for _ in range(ERRORS_IN_A_ROW):
        ejection.report(who, everybody, ok=False)


def test_errors_in_a_row_put_out_and_time_brings_back() -> None:
    clock, everybody = Clock(), some(4)
    ejection = Ejection(clock)
    for _ in range(3):  # interrupted rows do not count
        for _ in range(ERRORS_IN_A_ROW - 1):
            ejection.report(everybody[0], everybody, ok=False)
        ejection.report(everybody[0], everybody, ok=True)
    assert ejection.admitted(everybody) == (everybody, float("inf"))
    fail(ejection, everybody[0], everybody)
    assert ejection.admitted(everybody) == (everybody[1:], 105.0)
    clock.now = 105.0
    assert ejection.admitted(everybody) == (everybody, float("inf"))


def test_the_penalty_doubles_up_to_a_limit_and_is_forgiven() -> None:
    clock, everybody = Clock(), some(4)
    ejection = Ejection(clock)
    lengths: list[float] = []
    for _ in range(8):
        fail(ejection, everybody[0], everybody)
        _, until = ejection.admitted(everybody)
        lengths.append(until - clock.now)
        clock.now = until
    assert lengths == [5, 10, 20, 40, 80, 160, 300, 300]
    clock.now += 301
    ejection.report(everybody[0], everybody, ok=True)
    fail(ejection, everybody[0], everybody)
    assert ejection.admitted(everybody)[1] - clock.now == 5


@pytest.mark.parametrize(("count", "out"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3)])
def test_at_most_half_are_out(count: int, out: int) -> None:
    everybody = some(count)
    ejection = Ejection(Clock())
    for each in everybody:
        fail(ejection, each, everybody)
    assert len(ejection.admitted(everybody)[0]) == count - out


# -- the brake -----------------------------------------------------------------------------------------------------


def a_brake() -> Brake:
    return Brake(ratio=0.5, window=10, grace=20)


def test_few_that_vanish_are_gone_at_once() -> None:
    brake, everybody = a_brake(), some(10)
    assert not brake.vanished(everybody[:5], 5, now=0)
    assert brake.held(0) == ()


def test_a_crowd_that_vanishes_is_held_for_the_grace() -> None:
    brake, everybody = a_brake(), some(10)
    for number in range(7):  # one after the other, as leases end
        caught = brake.vanished((everybody[number],), 9 - number, now=number)
        assert caught == (number >= 5)
    assert brake.held(7) == everybody[:7]
    assert brake.next_end() == 20
    assert brake.held(19.9) == everybody[:7]
    assert brake.held(20) == everybody[1:7]
    assert brake.held(26) == ()
    assert brake.next_end() is None


def test_those_that_vanish_slowly_are_no_crowd() -> None:
    brake, everybody = a_brake(), some(10)
    for number in range(10):
        now = number * 6.0
        brake.held(now)
        assert not brake.vanished((everybody[number],), 9 - number, now=now) or number >= 7
        # Few are left by then, and two of three in ten seconds are a crowd.


def test_less_than_four_are_no_crowd() -> None:
    brake = a_brake()
    assert not brake.vanished(some(3), 0, now=0)
    assert brake.held(0) == ()


def test_who_comes_back_or_is_found_dead_is_not_held() -> None:
    brake, everybody = a_brake(), some(4)
    assert brake.vanished(everybody, 0, now=0)
    brake.came([everybody[0].key])
    brake.drop(everybody[1].key)
    assert brake.held(1) == everybody[2:]


def test_who_was_draining_has_left_on_purpose() -> None:
    brake = a_brake()
    leaving = tuple([instance(number, health="draining") for number in range(6)])
    assert not brake.vanished(leaving, 2, now=0)
    assert brake.held(0) == ()


# -- entries -------------------------------------------------------------------------------------------------------


def test_a_value_is_what_go_writes_with_ours_inside_the_metadata() -> None:
    record = Record(
        addr="10.0.0.1:80",
        id="a",
        nonce="0f",
        weight=3,
        zone="eu",
        version="1.2",
        tags=("x", "y"),
        shard="7",
        endpoints={"admin": "10.0.0.1:81"},
        since=12.3456,
        metadata={"build": {"commit": "abc"}},
    )
    value = record.encode()
    assert value == (
        b'{"Op":0,"Addr":"10.0.0.1:80","Metadata":{"id":"a","nonce":"0f","weight":3,"zone":"eu","version":"1.2",'
        b'"tags":["x","y"],"health":"serving","shard":"7","endpoints":{"admin":"10.0.0.1:81"},"since":12.346,'
        b'"build":{"commit":"abc"}}}'
    )
    assert RecordCodec().decode(value) == replace(record, since=12.346)


TEXT = st.text(max_size=8)
RECORDS = st.builds(
    Record,
    addr=st.text(min_size=1, max_size=8),
    id=TEXT,
    nonce=TEXT,
    weight=st.integers(0, 1_000_000),
    zone=TEXT,
    version=TEXT,
    tags=st.lists(TEXT, max_size=3).map(tuple),
    health=st.sampled_from(["serving", "failing", "draining"]),
    shard=TEXT,
    endpoints=st.dictionaries(TEXT, TEXT, max_size=2),
    since=st.integers(0, 2**31).map(float),
    metadata=st.dictionaries(
        st.sampled_from(["one", "two"]), st.one_of(TEXT, st.integers(), st.none()), max_size=2
    ),
)


@given(record=RECORDS)
def test_what_is_written_is_read(record: Record) -> None:
    assert RecordCodec().decode(record.encode()) == record


@pytest.mark.parametrize(
    ("metadata", "read"),
    [
        (None, {}),
        ("anything", {"value": "anything"}),
        ([1, 2], {"value": [1, 2]}),
        ({"weight": "heavy", "zone": 3}, {"weight": "heavy", "zone": 3}),
        ({"weight": True}, {"weight": True}),
    ],
)
def test_foreign_metadata_is_kept_as_it_is(metadata: object, read: object) -> None:
    found = RecordCodec().decode(
        json.dumps({"Op": 0, "Addr": "h:1", "Metadata": metadata}).encode()
    )
    assert (found.addr, found.weight, found.metadata) == ("h:1", 1, read)


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"Addr":3}', b'{"Addr":""}', b"\xff", b"7"])
def test_what_is_no_instance_is_refused(value: bytes) -> None:
    with pytest.raises(coord.DecodeError, match="instance"):
        RecordCodec().decode(value)


@pytest.mark.parametrize(
    "wrong",
    [
        Record(addr="", id="a"),
        Record(addr="h:1", id=""),
        Record(addr="unix:/run/a", id="unix:/run/a"),
        Record(addr="h:1", id="a\0"),
        Record(addr="h:1", id="a", weight=-1),
        Record(addr="h:1", id="a", metadata={"nonce": "mine"}),
    ],
)
def test_what_must_not_be_written_is_refused(wrong: Record) -> None:
    with pytest.raises(coord.InvalidArgument):
        wrong.check()


def test_metadata_that_is_no_json_is_refused() -> None:
    with pytest.raises(coord.InvalidArgument, match="JSON"):
        Record(addr="h:1", id="a", metadata={"set": {1, 2}}).encode()


# -- health --------------------------------------------------------------------------------------------------------


def test_a_verdict_turns_after_enough_answers_in_a_row() -> None:
    verdict = Verdict(HealthCheck(lambda: True, rise=2, fall=3))
    answers = "gbbgbbbbggbgbggg"
    turns = "".join("X" if verdict.note(good=answer == "g") else "." for answer in answers)
    assert turns == "......X..X......"
    assert verdict.healthy


@pytest.mark.parametrize("wrong", [{"period": 0}, {"rise": 0}, {"fall": 0}], ids=str)
def test_a_check_that_makes_no_sense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(coord.InvalidArgument):
        HealthCheck("tcp://h:1", **wrong)  # type: ignore[arg-type] # handed on


def test_every_strategy_has_a_name() -> None:
    names: tuple[StrategyName, ...] = (
        "random",
        "round_robin",
        "weighted",
        "least_loaded",
        "sticky",
        "zone",
    )
    for name in names:
        assert strategy_of(name, RAND).pick(some(1), "k").id == "i0"
