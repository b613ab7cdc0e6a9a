"""Partitions without ``await``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import coord
import coord.sync

WITHIN_S = 20.0


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_partitions() -> None:
    events: list[str] = []
    threads: set[int] = set()

    def assigned(own: coord.sync.Ownership) -> None:
        own.check()
        threads.add(threading.get_ident())
        events.append("+" + own.partition)

    def revoked(own: coord.sync.Ownership) -> None:
        own.check()
        events.append("-" + own.partition)

    with coord.sync.connect("memory:") as client:
        partitioner = client.partitioner("p", ["a", "b"], settle=0.01)
        assert (partitioner.name, partitioner.id) == (b"p", None)
        with partitioner.watch() as changes:
            assert next(changes) == {}
            with partitioner.run(assigned, revoked, timeout=WITHIN_S) as same:
                assert same is partitioner
                until(lambda: sorted(events) == ["+a", "+b"])
                own = partitioner.owned()["a"]
                assert (own.partition, own.name) == ("a", "p/owners/a")
                assert next(changes).keys() <= {"a", "b"}
                assert own.txn().then(coord.op.put("x", "1")).commit().succeeded
                found = partitioner.assignment(timeout=WITHIN_S)
                assert found.owners["a"].token == own.token
                partitioner.set_partitions(["b"])
                assert partitioner.partitions == {"b"}
                until(lambda: "-a" in events)
                until(lambda: list(partitioner.owned()) == ["b"])
        assert events[2:] == ["-a", "-b"]
        assert threading.get_ident() not in threads
        assert partitioner.owned() == {}
        assert client.count("p/") == 0


def test_the_end_waits_for_a_function_that_still_runs() -> None:
    started, go, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(_: coord.sync.Ownership) -> None:
        started.set()
        assert go.wait(WITHIN_S)
        ended.set()

    with coord.sync.connect("memory:") as client:
        running = client.partitioner("p", 1, settle=0, drain_timeout=0.05).run(slow)
        assert started.wait(WITHIN_S)
        threading.Timer(0.2, go.set).start()
        running.stop()
        assert ended.is_set()
        running.stop()
        assert client.count("p/") == 0
