"""The interval index against a list of ranges."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coord.runtime import InvariantViolation
from coord_server.mvcc.interval import IntervalIndex, RangeMap
from tests.server.watch.model import contains

names = st.binary(min_size=1, max_size=2).map(lambda b: bytes(byte % 4 + 97 for byte in b))
ranges = st.tuples(names, st.just(b"") | st.just(b"\x00") | names).filter(
    lambda r: not r[1] or r[1] == b"\x00" or r[0] < r[1]
)


@given(
    wanted=st.lists(ranges, unique=True, max_size=40),
    dropped=st.lists(st.integers(0, 39)),
    probes=st.lists(names, min_size=1),
)
def test_ranges_around_a_key(
    wanted: list[tuple[bytes, bytes]], dropped: list[int], probes: list[bytes]
) -> None:
    index: RangeMap[tuple[bytes, bytes]] = RangeMap()
    for one in wanted:
        assert index.get(*one) is None
        index.add(*one, one)
    for number in set(dropped):
        if number < len(wanted):
            index.remove(*wanted[number])
    kept = [one for number, one in enumerate(wanted) if number not in set(dropped)]
    assert len(index) == len(kept)
    assert all((index.get(*one) == one) == (one in kept) for one in wanted)
    for probe in probes:
        assert sorted(index.around(probe)) == sorted(r for r in kept if contains(*r, probe))


def test_thousands_of_ranges_split_into_blocks() -> None:
    rand = random.Random(7)
    index: IntervalIndex[int] = IntervalIndex()
    bounds: list[tuple[bytes, bytes]] = []
    for number in range(3000):
        low, high = sorted(rand.sample(range(10_000), 2))
        bound = (b"%05d/%d" % (low, number), b"%05d" % (high + 1))
        bounds.append(bound)
        index.add(*bound, number)
    for number in rand.sample(range(3000), 2000):
        index.remove(*bounds[number])
        bounds[number] = (b"", b"")
    for probe in (b"%05d" % n for n in range(0, 10_000, 97)):
        expected = [n for n, (low, high) in enumerate(bounds) if low <= probe < high]
        assert sorted(index.stab(probe)) == expected
    assert len(index) == 1000


@pytest.mark.parametrize("end", [b"c", None])
def test_a_range_is_there_once(end: bytes | None) -> None:
    index: IntervalIndex[int] = IntervalIndex()
    index.add(b"a", end, 1)
    with pytest.raises(InvariantViolation):
        index.add(b"a", end, 2)
    with pytest.raises(InvariantViolation):
        index.remove(b"b", end)
    index.remove(b"a", end)
    assert not len(index)
    assert index.get(b"a", end) is None
