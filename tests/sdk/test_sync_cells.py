"""Counters, cells, configuration, topics and rate limiters without ``await``."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

import coord
import coord.sync


def test_threads_count(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        counter = client.counter(prefix + "n", initial=5)
        ids = client.id_allocator(prefix + "i", block=3)
        spread = client.sharded_counter(prefix + "s", shards=2)

        def work(_: int) -> tuple[int, int]:
            spread.add(2, timeout=30)
            return counter.add(timeout=30), ids.next(timeout=30)

        with ThreadPoolExecutor(4) as pool:
            told = list(pool.map(work, range(20)))
        assert sorted(n for n, _ in told) == list(range(6, 26))
        assert len({n for _, n in told}) == 20
        assert (counter.value(), spread.value()) == (25, 40)
        counter.reset(1)
        assert client.counter(prefix + "n").value() == 1
        assert (counter.name, ids.name, spread.name) == tuple(
            (prefix + each).encode() for each in "nis"
        )


def test_a_cell(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        cell = client.atomic(prefix + "c", int)
        one = cell.compare_and_set(0, 1)
        assert cell.get() == one
        with pytest.raises(coord.Conflict):
            cell.compare_and_set(0, 2)

        def meddling(old: int | None) -> int:
            if old == 1:
                client.put(cell.name, "10")
            return (old or 0) + 1

        assert cell.update(meddling).value == 11
        with cell.watch() as values:
            assert next(values).value == 11
            cell.update(lambda _: 12)
            assert next(values).value == 12


def test_a_config(endpoint: str, prefix: str) -> None:
    with (
        coord.sync.connect(endpoint) as client,
        client.config(prefix + "c", dict[str, int], default={}) as config,
    ):
        with config.changes() as changes:
            first = config.publish({"a": 1})
            assert next(changes).value == {"a": 1}
        second = config.publish({"a": 2}, expected_revision=first)
        config.wait_revision(second, timeout=10)
        assert (config.value, config.revision, config.invalid) == ({"a": 2}, second, None)
        assert config.state.source == "store"
        assert [v.revision for v in config.history()] == [first]
        back = config.rollback(first)
        config.wait_revision(back)
        assert config.value == {"a": 1}
        assert config.canary({"a": 3}, 0) > back
        assert config.stale_for == 0
        assert config.name == (prefix + "c").encode()


def test_a_topic(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        topic = client.topic(prefix + "t")
        assert topic.name == (prefix + "t").encode()
        with topic.subscribe(from_="earliest", durable="d") as subscription:
            assert isinstance(subscription.read(timeout=10), coord.Gap)
            revision = topic.publish("x", headers={"a": "b"})
            message = next(subscription)
            assert isinstance(message, coord.sync.Message)
            assert (message.value, message.revision) == (b"x", revision)
            assert dict(message.headers) == {"a": "b"}
            assert message.key.startswith(topic.name + b"/log/")
            message.commit(also=[coord.op.put(prefix + "effect", "1")])
            assert client.get(prefix + "effect") is not None
            with pytest.raises(coord.CoordTimeout):
                subscription.read(timeout=0.05)
            topic.publish("y")
            assert next(iter(subscription)) != message
        subscription.close()


def test_a_rate_limiter(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        with client.rate_limiter(prefix + "r", 0.001, burst=2, mode="strict") as limiter:
            assert limiter.name == (prefix + "r").encode()
            limiter.acquire(timeout=10)
            assert limiter.try_acquire()
            assert not limiter.try_acquire()
            with pytest.raises(coord.RateLimitTimeout):
                limiter.acquire(timeout=0.1)
            assert limiter.state().available < 1
            limiter.set_rate(1000)
            limiter.acquire(timeout=30)
        with pytest.raises(coord.ClientClosed):
            limiter.acquire(timeout=10)
