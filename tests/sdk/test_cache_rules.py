"""What a cache is made of, against dumb versions: the sorted map, the index, the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from typing_extensions import override

import coord
from coord import codec
from coord.cache import ledger as ledger_module
from coord.cache import sortedmap
from coord.cache.decoding import Decoding
from coord.cache.index import index_of
from coord.cache.ledger import CacheBatch, Ledger
from coord.cache.mirror import is_ordered
from coord.cache.snapshot import CacheSnapshot
from coord.cache.sortedmap import SortedMap
from coord.codec.values import Entry, TypedKeyValue
from coord.store.values import KeyValue
from tests.support.virtual import InlineOffload

T = TypeVar("T")

keys = st.binary(min_size=1, max_size=2)


def pair(key: bytes, value: bytes = b"", *, created: int = 1, changed: int = 1) -> KeyValue:
    return KeyValue(key=key, value=value, create_revision=created, mod_revision=changed, version=1)


# The map.


@dataclass
class Kept:
    """A map from an earlier moment, and what it held then."""

    made: SortedMap[bytes, int]
    held: dict[bytes, int] = field(default_factory=dict[bytes, int])


class SortedMapMachine(RuleBasedStateMachine):
    """Every map ever made still holds what it held, and tells its differences from every other."""

    def __init__(self) -> None:
        super().__init__()
        self.present = Kept(SortedMap())
        self.past: list[Kept] = [self.present]
        self.number = 1000

    @rule(touched=st.dictionaries(keys, st.booleans(), max_size=40))
    def change(self, touched: dict[bytes, bool]) -> None:
        changes: dict[bytes, int | None] = {}
        held = dict(self.present.held)
        for key, is_put in touched.items():
            self.number += 1
            changes[key] = self.number if is_put else None
            held.pop(key, None)
            if is_put:
                held[key] = self.number
        self.present = Kept(self.present.made.updated(changes), held)
        self.past.append(self.present)

    @rule(start=keys, end=keys)
    def cut_out(self, start: bytes, end: bytes) -> None:
        gone = [key for key in self.present.held if start <= key < end]
        held = {key: value for key, value in self.present.held.items() if key not in gone}
        self.present = Kept(self.present.made.updated(dict.fromkeys(gone)), held)
        self.past.append(self.present)

    @rule(start=st.none() | keys, end=st.none() | keys)
    def read_a_range(self, start: bytes | None, end: bytes | None) -> None:
        expected = [
            value
            for key, value in sorted(self.present.held.items())
            if (start is None or key >= start) and (end is None or key < end)
        ]
        assert list(self.present.made.values(start, end)) == expected

    @rule(data=st.data())
    def compare(self, data: st.DataObject) -> None:
        one, other = (data.draw(st.sampled_from(self.past)) for _ in range(2))
        expected = [
            (key, one.held.get(key), other.held.get(key))
            for key in sorted(one.held.keys() | other.held.keys())
            if one.held.get(key) is not other.held.get(key)
        ]
        assert one.made.differences(other.made) == expected

    @rule(key=keys)
    def look_up(self, key: bytes) -> None:
        assert self.present.made.get(key) == self.present.held.get(key)

    @invariant()
    def all_hold_what_they_held(self) -> None:
        for kept in self.past[-3:]:
            assert len(kept.made) == len(kept.held)
            assert list(kept.made.values()) == [value for _, value in sorted(kept.held.items())]
            sizes = [len(chunk.keys) for chunk in kept.made._chunks]
            assert all(0 < size <= sortedmap._MAX for size in sizes)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sortedmap, "_MAX", 8)
    monkeypatch.setattr(sortedmap, "_TARGET", 4)


def test_maps() -> None:
    run_state_machine_as_test(SortedMapMachine, settings=settings(max_examples=60, deadline=None))


@given(st.sets(keys))
def test_a_map_of_sorted_keys(chosen: set[bytes]) -> None:
    ordered = sorted(chosen)
    made = SortedMap(ordered, [key * 2 for key in ordered])
    assert list(made.values()) == [key * 2 for key in ordered]
    assert [made.get(key) for key in ordered] == [key * 2 for key in ordered]
    assert made.updated({}) is made


# The index.


class Odd:
    """Values that are equal in hash and nothing else."""

    def __init__(self, zone: object) -> None:
        self.zone = zone


class Same:
    def __init__(self, number: int) -> None:
        self.number = number

    @override
    def __hash__(self) -> int:
        return 7

    @override
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.number == self.number


fields = st.none() | st.integers(0, 3) | st.builds(Same, st.integers(0, 2))
unhashable: dict[str, object] = {"zone": list[int]()}
without: dict[str, object] = {}
values: st.SearchStrategy[object] = st.one_of(
    st.fixed_dictionaries({"zone": fields}),
    st.builds(Odd, fields),
    st.just(unhashable),
    st.just(without),
    st.just(5),
)


@given(st.lists(st.tuples(keys, st.none() | values), max_size=60))
def test_an_index_that_moves_with_the_changes_equals_one_that_is_built(
    steps: list[tuple[bytes, object]],
) -> None:
    snapshot: CacheSnapshot[object] = CacheSnapshot(SortedMap(), revision=0, as_of=0)
    assert list(snapshot.index("zone")) == []
    for number, (key, value) in enumerate(steps, start=1):
        new: Entry[object] | None = None
        if value is not None:
            new = TypedKeyValue(
                key=key, value=value, create_revision=1, mod_revision=number, version=1
            )
        snapshot = snapshot.changed(
            [(key, snapshot.entry(key), new)], revision=number, as_of=0, undecodable={}
        )
    moved = snapshot.index("zone")
    built = index_of("zone", snapshot.entries())
    assert set(moved) == set(built)
    for zone in built:
        assert moved[zone] == built[zone]
        assert zone in moved
    assert moved["nowhere"] == ()
    assert "nowhere" not in moved


# The ledger.


@pytest.mark.parametrize("log", [2, 1000])
async def test_followers_get_steps_or_differences(
    log: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_LOG_BATCHES", log)
    ledger: Ledger[bytes] = Ledger()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await ledger.ready()
    ledger.start(CacheSnapshot(SortedMap(), revision=1, as_of=1))
    base = ledger.current
    ledger.publish({b"a": pair(b"a", changed=2)}, revision=2)
    ledger.publish({b"b": pair(b"b", changed=3), b"never": None}, revision=3)
    ledger.publish({b"a": None}, revision=4)
    ledger.publish({b"a": pair(b"a", created=5, changed=5)}, revision=5)
    ledger.progress(9)
    ledger.progress(7)
    batches, now = await ledger.after(base)
    assert (now.revision, now.as_of) == (5, 9)
    if log == 2:
        assert [(b.revision, b.coalesced) for b in batches] == [(5, True)]
        assert [c.key for c in batches[0].changes] == [b"a", b"b"]
    else:
        assert [(b.revision, b.coalesced) for b in batches] == [(r, False) for r in (2, 3, 4, 5)]
        assert [(len(b.puts), len(b.deletes)) for b in batches] == [(1, 0), (1, 0), (0, 1), (1, 0)]
    ledger.progress(10)
    batches, now = await ledger.after(now)
    assert (batches, now.as_of) == ((), 10)
    ledger.fail(coord.ClientClosed())
    ledger.fail(coord.CoordError("late"))
    with pytest.raises(coord.ClientClosed):
        await ledger.after(now)


def test_the_log_is_bounded_in_changes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_LOG_CHANGES", 10)
    ledger: Ledger[bytes] = Ledger()
    for number in range(1, 20):
        ledger.publish({b"%d" % n: pair(b"%d" % n) for n in range(4)}, revision=number)
        assert sum(len(batch.changes) for batch in ledger._log) <= 10
    ledger.publish({b"%d" % n: pair(b"%d" % n) for n in range(40)}, revision=20)
    assert len(ledger._log) == 1  # the newest is always there


# Decoding.


async def follow(
    source: Ledger[bytes], text: Decoding[str], until: int
) -> tuple[CacheBatch[str], ...]:
    base = text.ledger.current
    while text.ledger.current.as_of < until:
        await text.ledger.news()
    return text.ledger.since(base)


async def test_the_last_good_value_stays() -> None:
    source: Ledger[bytes] = Ledger()
    decoding = Decoding(source, codec.TEXT, InlineOffload())
    begin = {b"good": pair(b"good", b"1"), b"bad": pair(b"bad", b"\xff")}
    async with asyncio.TaskGroup() as group:
        task = group.create_task(decoding.run())
        entries: SortedMap[bytes, Entry[bytes]] = SortedMap()
        source.start(CacheSnapshot(entries.updated(begin), revision=1, as_of=1))
        await decoding.ledger.ready()
        now = decoding.ledger.current
        assert list(now.items()) == [(b"good", "1")]
        assert set(now.undecodable) == {b"bad"}

        source.publish({b"good": pair(b"good", b"\xff", changed=2)}, revision=2)
        assert await follow(source, decoding, 2) == ()
        now = decoding.ledger.current
        assert (now["good"], now.revision, set(now.undecodable)) == ("1", 2, {b"good", b"bad"})
        assert now.undecodable[b"good"].key == b"good"

        source.publish({b"good": pair(b"good", b"3", changed=3)}, revision=3)
        (told,) = await follow(source, decoding, 3)
        assert [(c.old and c.old.value, c.new and c.new.value) for c in told.changes] == [
            ("1", "3")
        ]
        assert set(decoding.ledger.current.undecodable) == {b"bad"}

        # A new life: what the former one held is not its last good value.
        source.publish({b"good": pair(b"good", b"\xff", created=5, changed=5)}, revision=5)
        (told,) = await follow(source, decoding, 5)
        assert [c.key for c in told.deletes] == [b"good"]
        assert "good" not in decoding.ledger.current
        source.publish({b"good": None, b"bad": None}, revision=6)
        assert await follow(source, decoding, 6) == ()
        assert decoding.ledger.current.undecodable == {}
        source.fail(coord.ClientClosed())
        await task
    with pytest.raises(coord.ClientClosed):
        await decoding.ledger.ready()


async def test_a_codec_whose_end_is_ours() -> None:
    class Broken(InlineOffload):
        @override
        async def run(self, fn: Callable[..., T], *args: object) -> T:
            raise MemoryError

    source: Ledger[bytes] = Ledger()
    source.start(CacheSnapshot(SortedMap(), revision=1, as_of=1))
    decoding = Decoding(source, codec.TEXT, Broken())
    with pytest.raises(MemoryError):
        await decoding.run()
    with pytest.raises(coord.CoordError, match="codec of a cache has failed"):
        await decoding.ledger.ready()


@pytest.mark.parametrize(
    ("version", "ordered"),
    [
        ("3.4.23", False),
        ("3.4.25", True),
        ("3.5.1", False),
        ("3.5.7", False),
        ("3.5.8", True),
        ("3.5.21", True),
        ("3.6.0-rc.1", True),
        ("3.6.0", True),
        ("3.3.9", False),
        ("4.0.0", True),
        ("next", False),
        ("", False),
    ],
)
def test_which_servers_keep_progress_behind_events(version: str, *, ordered: bool) -> None:
    assert is_ordered(version) is ordered
