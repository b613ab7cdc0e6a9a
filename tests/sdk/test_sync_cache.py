"""Caches, typed views and their watches, without ``await``."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import coord
import coord.sync
from tests.support.servers import ServerProcess


@dataclass(frozen=True)
class Node:
    zone: str


@pytest.fixture(params=["coord", "etcd", "memory"])
def client(request: pytest.FixtureRequest) -> Iterator[coord.sync.Client]:
    target = "memory:"
    if request.param != "memory":
        server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
        target = server.endpoint
    with coord.sync.connect(target) as made:
        yield made


def test_a_cache(client: coord.sync.Client, prefix: str) -> None:
    client.put(prefix + "a", "1")
    with client.cache(prefix=prefix, timeout=30) as view:
        assert (view[prefix + "a"], len(view), prefix + "b" in view) == (b"1", 1, False)
        with view.changes() as changes:
            done = client.put(prefix + "b", "2")
            batch = next(changes)
            assert [(change.old, change.key[-1:]) for change in batch.puts] == [(None, b"b")]
            view.wait_revision(done.revision, timeout=30)
            assert dict(view.items(prefix + "b")) == {f"{prefix}b".encode(): b"2"}
            elsewhere = client.put("elsewhere", "x")
            assert view.sync(timeout=30) >= elsewhere.revision
            assert view.snapshot().as_of == view.as_of >= elsewhere.revision
            assert view.stale_for == 0.0
        with pytest.raises(coord.CacheTimeout):
            view.wait_revision(1 << 40, timeout=0.05)
    with pytest.raises(coord.ClientClosed):
        view.get("k")
    with pytest.raises(coord.CacheOverflow):
        client.cache(prefix=prefix, max_keys=1).open()


def test_closing_ends_a_reader_of_changes(client: coord.sync.Client, prefix: str) -> None:
    with client.cache(prefix=prefix) as view:
        changes = view.changes()
        seen: list[coord.CacheBatch[bytes]] = []
        reader = threading.Thread(target=lambda: seen.extend(changes))
        reader.start()
        client.put(prefix, "1")
        while not seen:
            view.sync(timeout=30)
        changes.close()
        reader.join()
        assert len(seen) == 1


def test_one_key(client: coord.sync.Client, prefix: str) -> None:
    nodes = client.typed(Node)
    with nodes.cache(key=prefix) as one, client.cache(key=prefix, codec=Node) as other:
        assert (one.value, one.exists, one.pair) == (None, False, None)
        done = nodes.put(prefix, Node("eu"))
        for view in (one, other):
            view.wait_revision(done.revision, timeout=30)
            assert (view.value, view.exists) == (Node("eu"), True)
            assert view.pair is not None


def test_a_typed_view(client: coord.sync.Client, prefix: str) -> None:
    nodes = client.typed(Node)
    assert nodes.get(prefix + "a") is None
    with nodes.watch(prefix, prefix=True) as watch:
        nodes.put(prefix + "a", Node("eu"))
        event = watch.read(timeout=30)
        assert (event.value, event.is_create) == (Node("eu"), True)
        threads: list[int] = []

        def move(node: Node | None) -> Node:
            threads.append(threading.get_ident())
            assert node == Node("eu")
            return Node("us")

        assert nodes.update(prefix + "a", move).value == Node("us")
        assert threads == [threading.get_ident()]  # never the client's own
        assert next(iter(watch)).value == Node("us")
        assert [pair.value for pair in nodes.get_prefix(prefix).items] == [Node("us")]
        nodes.delete(prefix + "a")
        batch = next(watch.batches())
        assert [item.value for item in batch.events] == [None]
        assert (watch.revision, watch.lag) == (batch.revision, 0)
        assert watch.untyped.revision == watch.revision
        assert watch.codec is nodes.codec
        with pytest.raises(coord.CoordTimeout):
            watch.read(timeout=0.05)
    with nodes.cache(prefix=prefix) as view:
        assert len(view) == 0


def test_the_position_of_a_watch(client: coord.sync.Client, prefix: str) -> None:
    with client.watch(prefix, prefix=True, resync=True) as watch:
        done = client.put(prefix, "1")
        watch.read(timeout=30)
        assert (watch.revision, watch.lag) == (done.revision, 0)
