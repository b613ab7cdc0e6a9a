"""Time that the test moves: what leases, sessions and locks do in it, and that nothing else moves it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Self

import pytest

import coord
from coord.testing import Faults, MemoryWorld
from coord.testing.stopped import Clock, StillLoop


@pytest.fixture
def world() -> Iterator[MemoryWorld]:
    with MemoryWorld() as made:
        yield made


def test_a_lease_ends_with_its_ttl_and_not_before(world: MemoryWorld) -> None:
    client = world.connect_sync()
    lease = client.lease_grant(30)
    client.put("k", "v", lease=lease.lease_id)
    world.clock.advance(29)
    assert client.get("k") is not None
    world.clock.advance(3)
    assert client.get("k") is None


def test_time_stands_still(world: MemoryWorld) -> None:
    client = world.connect_sync()
    before = world.clock.now
    for number in range(20):
        client.put("k", str(number))
    assert world.clock.now == before
    world.clock.advance(120)
    assert world.clock.now == before + 120


async def test_a_session_lives_as_long_as_it_is_kept_alive(world: MemoryWorld) -> None:
    client = world.connect()
    async with client.session(ttl=10) as session:
        world.clock.advance(600)
        session.check()
        assert await client.lease_time_to_live(session.lease_id) is not None


async def test_a_stopped_process_loses_its_lock(world: MemoryWorld) -> None:
    client = world.connect()
    with pytest.raises(coord.LockLost):
        async with client.mutex("m").hold():
            world.clock.freeze(120)
            async with asyncio.timeout(10):
                await asyncio.Event().wait()


async def test_who_is_cut_off_loses_its_lock_to_who_waits() -> None:
    faults = Faults()
    with faults.everywhere(), MemoryWorld() as world:
        a, b = world.connect(name="a"), world.connect(name="b")
        first = await a.mutex("m").acquire()
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(b.mutex("m").acquire())
            faults.isolate("a")
            world.clock.advance(120)
        assert first.lost.is_set()
        assert waiting.result().token > first.token


def test_a_wait_for_a_lock_ends_with_its_timeout(world: MemoryWorld) -> None:
    a, b = world.connect_sync(name="a"), world.connect_sync(name="b")
    before = world.clock.now
    with a.mutex("m").hold(), world.clock.flying(), pytest.raises(coord.LockTimeout):
        b.mutex("m").acquire(timeout=600)
    # Its timers are sums of floats.
    assert world.clock.now - before > 599.9


def test_another_thread_may_advance(world: MemoryWorld) -> None:
    client = world.connect_sync()
    lease = client.lease_grant(5)
    client.put("k", "v", lease=lease.lease_id)
    mover = threading.Thread(target=world.clock.advance, args=(10,))
    mover.start()
    mover.join()
    assert client.get("k") is None


def test_clients_may_close_before_their_world(world: MemoryWorld) -> None:
    client = world.connect_sync()
    client.put("k", "v")
    client.close()
    with pytest.raises(coord.ClientClosed):
        client.get("k")
    assert world.connect_sync().get("k") is not None


async def test_a_client_closes_from_a_loop(world: MemoryWorld) -> None:
    client = world.connect()
    async with client:
        await client.put("k", "v")
    with pytest.raises(coord.ClientClosed):
        await client.get("k")


def test_a_world_ends_although_its_clients_are_cut_off() -> None:
    """That the block ends at all is the claim; it would wait for answers that nobody can give."""
    faults = Faults()
    with faults.everywhere(), MemoryWorld() as world:
        client = world.connect_sync()
        grant = client.mutex("m").acquire()
        faults.isolate()
        grant.check()


def test_worlds_are_apart(world: MemoryWorld) -> None:
    with MemoryWorld() as other:
        world.connect_sync().put("k", "v")
        assert other.connect_sync().get("k") is None


def test_a_world_is_entered_first() -> None:
    with pytest.raises(RuntimeError, match="entered"):
        MemoryWorld().connect()


class Played:
    """What timers did, on a loop that stands still, in a thread."""

    def __init__(self) -> None:
        self.loop = StillLoop()
        self.clock = Clock(self.loop)
        self.told: list[tuple[str, float]] = []
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def after(self, seconds: float, name: str, then: float | None = None) -> None:
        def fire() -> None:
            self.told.append((name, self.loop.time() - 1000))
            if then is not None:
                self.loop.call_later(
                    then, lambda: self.told.append((f"{name}!", self.loop.time() - 1000))
                )

        self.loop.call_soon_threadsafe(lambda: self.loop.call_later(seconds, fire))


def test_timers_fire_in_order_at_their_times() -> None:
    with Played() as played:
        played.after(3, "late")
        played.after(1, "early", then=1)
        played.after(4, "beyond")
        played.clock.advance(3)
        assert played.told == [("early", 1), ("early!", 2), ("late", 3)]
        played.clock.advance(0.5)
        assert len(played.told) == 3
        played.clock.advance(0.5)
        assert played.told[-1] == ("beyond", 4)


def test_a_freeze_fires_nothing_on_the_way() -> None:
    with Played() as played:
        played.after(1, "early", then=1)
        played.clock.freeze(10)
        assert played.told == [("early", 10)]


def test_time_flies_only_inside_the_block() -> None:
    with Played() as played:
        reached = threading.Event()
        played.after(1000, "far")
        played.loop.call_soon_threadsafe(lambda: played.loop.call_later(2000, reached.set))
        with played.clock.flying():
            assert reached.wait(10)
        played.after(1, "later")
        played.clock.settle()
        assert [name for name, _ in played.told] == ["far"]


def test_a_world_does_not_move_its_own_time() -> None:
    refused: list[BaseException] = []
    done = threading.Event()
    with Played() as played:

        def move() -> None:
            try:
                played.clock.advance(1)
            except RuntimeError as error:
                refused.append(error)
            done.set()

        played.loop.call_soon_threadsafe(move)
        assert done.wait(10)
    assert [str(error) for error in refused] == ["a world does not move its own time"]


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_time_does_not_go_back(seconds: float) -> None:
    with Played() as played:
        with pytest.raises(ValueError, match="go back"):
            played.clock.advance(seconds)
        with pytest.raises(ValueError, match="go back"):
            played.clock.freeze(seconds)
