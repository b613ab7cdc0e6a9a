"""Read-write locks and semaphores without await: in threads, on every store."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

import coord
import coord.sync
from coord.core import Carrier
from coord.sync._portal import behind
from tests.support.servers import ServerProcess

FLAVOURS: tuple[tuple[str, Carrier], ...] = (
    ("etcd", "native"),
    ("etcd", "grpcio"),
    ("coord", "native"),
    ("coord", "grpcio"),
    ("memory", "native"),
)


@pytest.fixture(params=FLAVOURS, ids="-".join)
def client(request: pytest.FixtureRequest) -> Iterator[coord.sync.Client]:
    """A blocking client, over every store and carrier."""
    store, carrier = request.param
    target = "memory:"
    if store != "memory":
        server: ServerProcess = request.getfixturevalue(f"{store}_process")
        target = server.endpoint
    with coord.sync.connect(target, transport=carrier) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Other threads."""
    with ThreadPoolExecutor(10) as made:
        yield made


def lined_up(client: coord.sync.Client, rw: coord.sync.RWLock, count: int) -> None:
    with client.watch(rw.name + b"/", prefix=True) as watch:
        while len(rw.state().waiting) != count:
            watch.read(timeout=30)


def test_readers_and_a_writer(
    client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor
) -> None:
    rw = client.rwlock(prefix + "rw")
    assert rw.name == f"{prefix}rw".encode() == rw.read().name == rw.write().name
    with rw.read().hold(timeout=30) as reading:
        other = rw.read().acquire(timeout=30)
        assert other.token > reading.token
        assert pool.submit(rw.write().try_acquire).result(30) is None
        with pytest.raises(coord.UpgradeRefused):
            rw.write().acquire(timeout=30)
        with pytest.raises(coord.LockTimeout):
            pool.submit(lambda: rw.write().acquire(timeout=0.05)).result(30)
        writing: Future[coord.sync.WriteGrant] = pool.submit(
            lambda: rw.write(downgradable=True).acquire(timeout=30)
        )
        lined_up(client, rw, 1)
        other.release()
        assert not writing.done()
    alone = writing.result(30)
    assert alone.token > other.token
    assert rw.read().try_acquire() is None
    before = alone.downgraded
    alone.downgrade(timeout=30)
    assert (before, alone.downgraded) == (False, True)
    shared = rw.read().try_acquire()
    assert shared is not None
    assert [entry.token for entry in rw.state().readers] == [alone.token, shared.token]
    assert alone.release() is True
    assert shared.release() is True
    with pytest.raises(coord.NotHeld):
        alone.check()
    written = rw.write().try_acquire()
    assert written is not None
    state = rw.state(timeout=30)
    assert state.writer is not None
    assert state.writer.metadata["owner"] != "no-task"
    assert written.release() is True


def test_a_lost_hold_raises_at_the_end_of_its_block(client: coord.sync.Client, prefix: str) -> None:
    with pytest.raises(coord.LockLost), client.rwlock(prefix + "rw").write().hold() as grant:
        client.delete(grant.key)
        assert grant.lost.wait(timeout=30) == "revoked"
    with (
        pytest.raises(coord.PermitLost),
        client.semaphore(prefix + "s", limit=1).hold() as permit,
    ):
        client.delete(permit.key)
        assert permit.lost.wait(timeout=30) == "revoked"


def test_twins_have_every_attribute(client: coord.sync.Client, prefix: str) -> None:
    rw, semaphore = client.rwlock(prefix + "rw"), client.semaphore(prefix + "s", limit=1)
    with rw.write().hold() as alone, semaphore.hold() as permit:
        for twin in (rw, rw.read(), rw.write(), semaphore, alone, permit):
            names = {name for name in vars(behind(twin)) if not name.startswith("_")}
            for name in names - {"lost_error"}:
                getattr(twin, name)
        assert "permits" in vars(behind(permit))


def test_permits_in_threads(
    client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor
) -> None:
    semaphore = client.semaphore(prefix + "s", limit=3)
    assert semaphore.name == f"{prefix}s".encode()
    inside: list[int] = []
    seen: list[int] = []

    def work(number: int) -> None:
        permits = 1 + number % 2
        with semaphore.hold(permits, timeout=60) as permit:
            assert permit.permits == permits
            inside.append(permits)
            seen.append(sum(inside))
            inside.remove(permits)

    for done in [pool.submit(work, number) for number in range(20)]:
        done.result(60)
    assert len(seen) == 20
    assert max(seen) <= 3
    assert semaphore.available() == 3
    assert semaphore.holders() == ()


def test_limits_and_what_is_free(client: coord.sync.Client, prefix: str) -> None:
    with client.session(ttl=20) as session:
        semaphore = client.semaphore(prefix + "s", initial_limit=2, session=session)
        held = semaphore.acquire(2, timeout=30)
        assert semaphore.try_acquire() is None
        with pytest.raises(coord.SemaphoreTimeout):
            semaphore.acquire(timeout=0.05)
        semaphore.set_limit(3)
        more = semaphore.try_acquire()
        assert more is not None
        state = semaphore.state()
        assert (state.limit, state.available) == (3, 0)
        assert [entry.permits for entry in semaphore.holders(timeout=30)] == [2, 1]
        with pytest.raises(coord.LimitMismatch):
            client.semaphore(prefix + "s", limit=2).acquire()
        assert held.release() is True
        assert more.release() is True
        assert semaphore.available(timeout=30) == 3
