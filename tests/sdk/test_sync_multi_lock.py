"""The blocking face of multi-locks, and of the options of a mutex, in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

import coord
import coord.sync
from coord import op
from coord.locking import deadlock

WITHIN_S = 20.0


@pytest.fixture
def memory() -> Iterator[coord.sync.Client]:
    """A client of a store of its own."""
    with coord.sync.connect("memory:") as made:
        yield made


def test_all_names_or_none(memory: coord.sync.Client) -> None:
    with memory.session(ttl=30) as one, memory.session(ttl=30) as two:
        lock = memory.multi_lock(["b", "a"], session=one, label="both")
        assert lock.names == (b"a", b"b")
        other = memory.multi_lock(["b", "c"], session=two)
        with lock.hold(timeout=WITHIN_S) as grant:
            assert grant.names == lock.names
            assert grant.keys == tuple(f"{n}/{one.lease_id:x}".encode() for n in "ab")
            assert other.try_acquire() is None
            with pytest.raises(coord.LockTimeout):
                other.acquire(timeout=0.05)
            assert memory.txn().when(*grant.guards()).then(op.put("x", "1")).commit().succeeded
            with pytest.raises(coord.InvalidArgument):
                grant.guard()
        taken = other.try_acquire()
        assert taken is not None
        assert taken.token > grant.token
        assert taken.release()


def test_threads_take_turns_in_any_order_of_names(memory: coord.sync.Client) -> None:
    inside: set[str] = set()

    def work(names: str) -> int:
        with memory.multi_lock(names.split()).hold(timeout=WITHIN_S) as grant:
            assert not inside & set(names.split())
            inside.update(names.split())
            inside.difference_update(names.split())
            return grant.token

    with ThreadPoolExecutor(6) as pool:
        tokens = list(pool.map(work, ["a b", "b a", "b c", "c a", "a b c", "c"] * 3))
    assert len(set(tokens)) == 18


def test_threads_in_a_circle_are_told(
    memory: coord.sync.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlock, "_FIRST_LOOK_S", 0.05)
    ready = threading.Barrier(2, timeout=WITHIN_S)

    def nested(outer: str, inner: str) -> str:
        with memory.mutex(outer).hold(timeout=WITHIN_S):
            ready.wait()
            try:
                with memory.mutex(inner, detect_deadlocks=True).hold(timeout=WITHIN_S):
                    return "both"
            except coord.DeadlockDetected:
                return "gave up"

    with ThreadPoolExecutor(2) as pool:
        told = sorted(pool.map(nested, ["x", "y"], ["y", "x"]))
    assert told == ["both", "gave up"]


def test_options_of_a_mutex(memory: coord.sync.Client) -> None:
    single = memory.mutex("one", layout="single-key", lock_delay=3600)
    with single.hold(timeout=WITHIN_S) as grant:
        assert grant.key == b"one"
    again = single.acquire(timeout=WITHIN_S)
    memory.delete("one")
    assert again.lost.wait(timeout=WITHIN_S) == "revoked"
    assert not again.release()
    with pytest.raises(coord.LockTimeout, match="did not leave by itself"):
        single.acquire(timeout=0.1)
