"""The work queue in virtual time: delays, backoff, what is remembered of what was done, claims with a time of their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

import coord
from coord import Backoff
from coord.cache import CacheSnapshot
from coord.recipes.work_queue.agenda import Agenda
from coord.recipes.work_queue.layout import Layout
from coord.testing import MemoryWorld

AT_ONCE = Backoff(first=0, most=0)


@pytest.fixture
def world() -> Iterator[MemoryWorld]:
    with MemoryWorld() as made:
        yield made


def test_delays_and_backoff(world: MemoryWorld) -> None:
    client = world.connect_sync()
    backoff = Backoff(first=100, factor=3, most=250, jitter=0)
    with client.work_queue("q", backoff=backoff) as queue, world.clock.flying():
        clock = client._portal.core.env.clock
        begun = clock.mono()
        queue.put("later", delay=1000)
        assert queue.stats().delayed == 1
        # Time flies between our calls, too.
        for attempt, pause in ((1, 1000), (2, 100), (3, 250), (4, 250)):
            (item,) = queue.receive()
            assert item.attempt == attempt
            assert clock.mono() - begun >= pause - 0.001  # a due time is in whole milliseconds
            begun = clock.mono()
            item.nack(reason="later", delay=400 if attempt == 4 else None)
        with pytest.raises(coord.ReceiveTimeout):
            queue.receive(timeout=300)
        assert queue.receive()[0].attempt == 5


def test_what_was_done_is_remembered_for_a_window_and_at_most_two(world: MemoryWorld) -> None:
    client = world.connect_sync()
    with client.work_queue("q", dedup_window=60) as queue:
        for dedup_id in ("a", "b"):  # under one lease, which "b" finds old
            queue.put("x", dedup_id=dedup_id)
            with queue.receive()[0]:
                pass
            world.clock.advance(59)
        assert queue.put("x", dedup_id="b").duplicate
        world.clock.advance(5)
        assert not queue.put("x", dedup_id="b").duplicate


@pytest.mark.parametrize(
    "wrong",
    [{"first": -1}, {"most": -1}, {"factor": 0.5}, {"jitter": 2}, {"jitter": -0.1}],
    ids=str,
)
def test_a_backoff_is_a_series_of_pauses(wrong: dict[str, float]) -> None:
    with pytest.raises(coord.InvalidArgument):
        Backoff(**wrong)


def test_a_claim_with_a_time_of_its_own_ends_unless_extended(world: MemoryWorld) -> None:
    client, other = world.connect_sync(), world.connect_sync()
    options: dict[str, Any] = {"claim": "visibility", "visibility": 20, "backoff": AT_ONCE}
    with client.work_queue("q", **options) as queue, other.work_queue("q", **options) as another:
        queue.put("a")
        (item,) = queue.receive()
        for _ in range(5):
            world.clock.advance(15)
            assert 15 < item.extend() <= 20
        world.clock.advance(21)
        assert item.lost.is_set()
        for late in (item.extend, item.ack):
            with pytest.raises(coord.ClaimLost):
                late()
        queue.close()  # else the other one would wait for us, in a time that stands still
        (again,) = another.receive()
        assert again.attempt == 2
        assert again.token > item.token
        assert client.lease_time_to_live(item.session.lease_id).remaining is None
        again.ack()
        assert client.count("q/claims/") == 0


class Snapshot:
    """What an agenda reads of a view."""

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self._entries = {
            key: coord.KeyValue(
                key=key, value=value, create_revision=1, mod_revision=1, version=1, lease=0
            )
            for key, value in values.items()
        }

    def entry(self, key: bytes) -> coord.KeyValue | None:
        return self._entries.get(key)

    def entries(self, prefix: bytes) -> list[coord.KeyValue]:
        return [entry for key, entry in self._entries.items() if key.startswith(prefix)]


@pytest.mark.parametrize("due_ms", [1024003, 1024004, 1024013, 1700000000000])
def test_a_delay_is_over_at_the_time_that_was_told(due_ms: int) -> None:
    """Milliseconds in seconds are rounded: a clock that moves only when somebody waits would stand still before them."""
    layout = Layout(b"q")
    found = {layout.items + b"00001-a": b"x", layout.delay + b"00001-a": b"%d" % due_ms}
    snapshot, agenda = cast("CacheSnapshot[bytes]", Snapshot(found)), Agenda(layout)
    begun = due_ms / 1000 - 1
    agenda.start(snapshot, 0.0, begun)
    due = agenda.due_in(begun)
    assert due is not None
    assert not list(agenda.ready(snapshot))
    agenda.promote(snapshot, 1.0, begun + due)
    assert [candidate.id for candidate in agenda.ready(snapshot)] == [b"00001-a"]
