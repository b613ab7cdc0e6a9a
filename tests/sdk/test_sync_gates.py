"""The blocking faces of barriers and latches, between threads."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import coord
import coord.sync
from coord.sync._portal import behind
from tests.support.servers import ServerProcess

WITHIN_S = 20.0


@pytest.fixture(params=["etcd", "coord", "memory"])
def client(request: pytest.FixtureRequest) -> Iterator[coord.sync.Client]:
    """A blocking client, over every store."""
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    with coord.sync.connect(target) as made:
        yield made


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


def test_a_barrier(client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor) -> None:
    with client.session(ttl=20) as session:
        barrier = client.barrier(prefix + "b", session=session)
        assert barrier.name == f"{prefix}b".encode()
        for leased in (False, True):
            gate = barrier.hold(leased=leased)
            found = client.get(prefix + "b")
            assert found is not None
            assert (gate.name, gate.key) == (prefix + "b", found.key)
            assert (gate.token, gate.leased) == (found.create_revision, leased)
            gate.check()
            assert not gate.lost.is_set()
            assert client.txn().when(gate.guard()).commit().succeeded
            with pytest.raises(coord.BarrierHeld):
                barrier.hold()
            with pytest.raises(coord.BarrierTimeout):
                barrier.wait(timeout=0.1)
            waiting = [pool.submit(barrier.wait, timeout=WITHIN_S) for _ in range(3)]
            assert barrier.is_closed()
            assert gate.release() is True
            for each in waiting:
                each.result(WITHIN_S)
        gate = barrier.hold(leased=True)
        assert client.barrier(prefix + "b").release(force=True) is True
        assert gate.lost.wait(timeout=WITHIN_S) == "revoked"
        with pytest.raises(coord.BarrierLost):
            gate.check()
        assert barrier.release() is False


def test_a_double_barrier(client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor) -> None:
    inside: list[int] = []

    def take_part(session: coord.sync.Session) -> list[int]:
        barrier = client.double_barrier(prefix + "b", 3, session=session)
        assert (barrier.name, barrier.parties) == (f"{prefix}b".encode(), 3)
        rounds = [barrier.enter(timeout=WITHIN_S)]
        inside.append(1)
        barrier.leave(timeout=WITHIN_S)
        assert len(inside) >= 3
        with barrier.joined(timeout=WITHIN_S) as number:
            rounds.append(number)
        return rounds

    with client.session(ttl=20) as a, client.session(ttl=20) as b, client.session(ttl=20) as c:
        futures = [pool.submit(take_part, session) for session in (a, b, c)]
        rounds = [each.result(WITHIN_S * 2) for each in futures]
    assert rounds[0] == rounds[1] == rounds[2]
    assert rounds[0] == sorted(set(rounds[0]))
    late = client.double_barrier(prefix + "b", 2, when_full="raise")
    with pytest.raises(coord.BarrierTimeout):
        late.enter(timeout=0.1)
    with pytest.raises(coord.NotHeld):
        late.leave()


def test_a_body_that_raises_does_not_wait(client: coord.sync.Client, prefix: str) -> None:
    with client.session(ttl=20) as session:
        barrier = client.double_barrier(prefix + "b", 1, session=session)
        joined = barrier.joined(timeout=WITHIN_S)
        assert behind(joined) is not None
        with pytest.raises(LookupError), joined:
            raise LookupError
        with barrier.joined(timeout=WITHIN_S):
            pass
    assert client.count(prefix + "b/") in (0, 1)  # of the first round `ready` may be left
    assert client.count(prefix + "b/waiters/") == 0


def test_a_latch(client: coord.sync.Client, prefix: str, pool: ThreadPoolExecutor) -> None:
    latch = client.latch(prefix + "l", 3)
    assert (latch.name, latch.count, latch.remaining()) == (f"{prefix}l".encode(), 3, 3)
    waiting = pool.submit(client.latch(prefix + "l", 3).wait, timeout=WITHIN_S)
    with pytest.raises(coord.LatchTimeout):
        latch.wait(timeout=0.1)
    with pytest.raises(coord.LatchPending):
        latch.reset(2)
    left = [pool.submit(latch.count_down, who, timeout=WITHIN_S) for who in ("a", "b", None)]
    assert sorted(each.result(WITHIN_S) for each in left) == [0, 1, 2]
    waiting.result(WITHIN_S)
    latch.reset(2)
    assert (latch.count, latch.remaining()) == (2, 2)
    with pytest.raises(coord.LatchMismatch):
        client.latch(prefix + "l", 3).remaining()
