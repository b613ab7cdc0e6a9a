"""Caches where connections break, history goes, servers are away, and ranges are large."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import coord
from coord import op
from coord.cache import ledger as ledger_module
from coord.cache import mirror
from coord.cache.ledger import Ledger
from coord.core import Carrier
from coord.rpc.status import StatusCode
from coord.store.paging import Pages
from coord.store.values import KeyValue
from coord.testing.chaos import Cluster
from coord.wire import rpc_pb2
from tests.sdk.test_cache import told
from tests.sdk.test_failures import carriers, reached
from tests.sdk.test_watch_resync import lose_history
from tests.support.breaking import make_breaking
from tests.support.proxy import Proxy
from tests.support.servers import coord_server_process, free_port

# What a key holds in a history: its value and the revisions that tell its lives apart.
Held = dict[bytes, tuple[bytes, int, int]]
NAMES = [f"k{n}" for n in range(6)]


def content(snapshot: coord.CacheSnapshot[bytes]) -> Held:
    return {
        entry.key: (entry.value, entry.create_revision, entry.mod_revision)
        for entry in snapshot.entries()
    }


class Historian:
    """The only writer of a store: knows what it held at every revision."""

    def __init__(self, client: coord.Client, chance: random.Random, revision: int) -> None:
        self._client = client
        self._chance = chance
        self.revision = revision
        self.states: dict[int, Held] = {revision: {}}

    async def write(self) -> None:
        """Change up to three keys, or something else, in one transaction."""
        names = self._chance.sample(NAMES, self._chance.randint(1, 3))
        if self._chance.random() < 0.2:
            self._note((await self._client.put("elsewhere", "x")).revision, {})
            return
        news: dict[bytes, bytes | None] = {}
        for name in names:
            # Few values, so that a key often comes back with an equal one.
            news[b"w/" + name.encode()] = self._chance.choice([None, b"1", b"2"])
        ops = [op.delete(k) if v is None else op.put(k, v) for k, v in news.items()]
        self._note((await self._client.txn().then(*ops).commit()).revision, news)

    def _note(self, revision: int, news: dict[bytes, bytes | None]) -> None:
        held = dict(self.states[self.revision])
        for key, value in news.items():
            if value is None:
                held.pop(key, None)
            else:
                held[key] = (value, held[key][1] if key in held else revision, revision)
        if revision > self.revision:
            self.states[revision] = held
        assert self.states[revision] == held  # deletes of nothing make no revision
        self.revision = revision


@pytest.mark.parametrize("log", [3, 1000], ids=["slow", "fast"])
@pytest.mark.parametrize("seed", range(6))
async def test_the_view_equals_the_log_at_every_revision(
    seed: int, log: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger_module, "_LOG_BATCHES", log)
    published: list[tuple[Ledger[Any], coord.CacheSnapshot[bytes]]] = []
    wake: Callable[[Ledger[Any]], None] = Ledger[Any].wake

    def note(ledger: Ledger[Any]) -> None:
        published.append((ledger, ledger.current))
        wake(ledger)

    monkeypatch.setattr(Ledger, "wake", note)
    chance = random.Random(seed)
    with_server = coord.connect("memory:", runtime="inline")
    async with asyncio.timeout(60), with_server as client:
        # The writer goes another way than the cache, to the same server.
        writer = coord.Client(client._core)
        begin = (await client.put("elsewhere", "x")).revision
        historian = Historian(writer, chance, begin)
        for _ in range(5):
            await historian.write()
        direct = client._core.caller.transport
        breaking = make_breaking(client, seed)
        client._core.caller.transport = breaking
        watch = client.watch("w/", prefix=True, start_revision=begin + 1, resync=True)
        async with watch, client.cache(prefix="w/") as view:
            watched: Held = {}
            moments: list[tuple[int, Held]] = []
            watcher = asyncio.ensure_future(apply(watch, watched, moments))
            followed = content(view.snapshot())
            changes = view.changes()
            reader = asyncio.ensure_future(follow(changes, followed))
            for turn in range(80):
                if turn == 40:  # chance alone may spare a whole run
                    breaking.is_due = True
                breaking.is_down = chance.random() < 0.15
                client._core.caller.transport = direct
                await historian.write()
                if chance.random() < 0.1:
                    await compact(client, historian.revision)
                client._core.caller.transport = breaking
                for _ in range(chance.randrange(20)):
                    await asyncio.sleep(0)
                if not breaking.is_down and chance.random() < 0.3:
                    await view.wait_revision(historian.revision)
            breaking.is_down = False
            breaking.odds = 0.05
            assert await view.sync() == historian.revision
            assert content(view.snapshot()) == historian.states[historian.revision]
            while followed != content(view.snapshot()):
                await asyncio.sleep(0)
            while watched != content(view.snapshot()):
                assert not watcher.done(), watcher
                await asyncio.sleep(0)
            assert watch.revision >= max([held[2] for held in watched.values()], default=0)
            reader.cancel()
            watcher.cancel()
            client._core.caller.transport = direct
        writer._closed = True  # the core is the other's
    assert breaking.broken > 0
    assert not breaking.is_due
    assert [r for r, held in moments if historian.states[r] != held] == []
    last = 0
    for _, snapshot in published:
        if snapshot.revision == 0:
            continue  # before the first
        assert snapshot.revision >= last
        last = snapshot.revision
        expected = content(snapshot)
        for revision in range(snapshot.revision, snapshot.as_of + 1):
            assert historian.states[revision] == expected, revision


async def compact(client: coord.Client, revision: int) -> None:
    try:
        await client.compact(revision)
    except coord.Compacted:
        return


async def apply(watch: coord.Watch, watched: Held, moments: list[tuple[int, Held]]) -> None:
    """Apply what a watch tells, whether history or difference."""
    revision = 0
    async for batch in watch.batches():
        for event in batch.events:
            assert event.revision >= revision
            revision = event.revision
            if event.type is coord.EventType.DELETE:
                del watched[event.key]
            else:
                kv = event.kv
                watched[kv.key] = (kv.value, kv.create_revision, kv.mod_revision)
        moments.append((batch.revision, dict(watched)))


async def follow(changes: Any, followed: Held) -> None:  # noqa: ANN401
    """Apply batches, each of which must begin where the one before ended."""
    async for batch in changes:
        for change in batch.changes:
            known = followed.get(change.key)
            old = change.old and (change.old.value, change.old.create_revision, change.old.mod_revision)  # fmt: skip
            assert old == known
            if change.new is None:
                del followed[change.key]
            else:
                new = change.new
                followed[change.key] = (new.value, new.create_revision, new.mod_revision)


@carriers
async def test_compaction_during_a_disconnect(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        for name in ("changed", "gone", "reborn", "same"):
            await direct.put(prefix + name, "1")
        async with client.cache(prefix=prefix) as view:
            before = view.snapshot()
            changes = view.changes()

            async def change() -> None:
                await direct.put(prefix + "changed", "2")
                await direct.delete(prefix + "gone")
                await direct.delete(prefix + "reborn")
                await direct.put(prefix + "reborn", "1")  # an equal value, and yet another key
                await direct.put(prefix + "born", "1")

            last = await lose_history(direct, proxy, change)
            batch = await anext(changes)
            assert (batch.resync, batch.revision >= last) == (True, True)
            assert told(batch) == [
                ("born", None, b"1"),
                ("changed", b"1", b"2"),
                ("gone", b"1", None),
                ("reborn", b"1", b"1"),
            ]
            reborn = batch.changes[3]
            assert reborn.old is not None
            assert reborn.new is not None
            assert reborn.old.create_revision < reborn.new.create_revision
            assert view.entry(prefix + "same") is before.entry(prefix + "same")
            assert len(view) == 4
            done = await direct.put(prefix + "after", "1")
            await view.wait_revision(done.revision, timeout=30)
            assert not (await anext(changes)).resync


async def test_a_lost_connection_makes_it_older_not_emptier(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint) as client,
        client.cache(prefix=prefix) as view,
    ):
        done = await direct.put(prefix, "1")
        await view.wait_revision(done.revision, timeout=30)
        await proxy.refuse()
        proxy.cut()

        async def stale() -> bool:
            return view.stale_for > 0.05

        await reached(stale, "nobody watches for the view")
        first = view.stale_for
        assert view[prefix] == b"1"
        with pytest.raises(coord.CacheTimeout):
            await view.sync(timeout=0.2)
        assert view.stale_for > first
        done = await direct.put(prefix, "2")
        await proxy.accept()
        await view.wait_revision(done.revision, timeout=30)
        assert view[prefix] == b"2"

        async def fresh() -> bool:
            return view.stale_for == 0.0

        await reached(fresh, "the store watches again")


async def test_a_start_waits_for_the_server(tmp_path: Path) -> None:
    listen = f"http://127.0.0.1:{free_port()}"
    data = tmp_path / "data"
    with coord_server_process(tmp_path, listen=listen, data_dir=data) as server:
        endpoint = server.endpoint
        async with coord.connect(endpoint) as direct:
            await direct.put("k", "1")
    async with coord.connect(endpoint, request_timeout=0.2) as client:
        with pytest.raises(coord.CacheTimeout):
            await client.cache(prefix="").open(timeout=0.5)
        opening = client.cache(prefix="")
        waiting = asyncio.ensure_future(opening.open())
        await asyncio.sleep(0)
        with coord_server_process(tmp_path, listen=listen, data_dir=data):
            await waiting
            assert dict(opening.items()) == {b"k": b"1"}
            done = await client.put("k", "2", timeout=10)
            await opening.wait_revision(done.revision, timeout=30)
            assert opening["k"] == b"2"
        opening.close()


@pytest.mark.parametrize("store", ["coord", "etcd"])
async def test_a_hundred_thousand_keys(store: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(f"{store}_process")
    count, width = 100_000, 100
    async with coord.connect(server.endpoint) as client:
        for start in range(0, count, width):
            puts = [op.put(f"many/{n:06}", b"%d" % n) for n in range(start, start + width)]
            await client.txn().then(*puts).commit()
        try:
            async with client.cache(prefix="many/", timeout=60) as view:
                assert len(view) == count
                assert all(view[f"many/{n:06}"] == b"%d" % n for n in range(0, count, 997))
                then = view.snapshot()
                done = await client.put("many/050000", "new")
                assert await view.sync(timeout=30) >= done.revision
                assert (view["many/050000"], then["many/050000"]) == (b"new", b"50000")
                assert [key for key, _, _ in then.differences(view.snapshot())] == [b"many/050000"]
        finally:
            await client.delete_prefix("many/")


class Narrow:
    """A store of one-byte pairs and of large ones, whose answers may hold ``fits`` bytes."""

    def __init__(self, sizes: list[int], fits: int) -> None:
        self._items = [
            KeyValue(
                key=b"%03d" % n, value=b"x" * size, create_revision=1, mod_revision=1, version=1
            )
            for n, size in enumerate(sizes)
        ]
        self._fits = fits
        self.limits: list[int] = []

    async def range(
        self, request: rpc_pb2.RangeRequest, *, timeout: float | None = None
    ) -> coord.RangeResult:
        self.limits.append(request.limit)
        found = [kv for kv in self._items if kv.key >= request.key]
        page = found[: request.limit]
        if sum(len(kv.value) for kv in page) > self._fits:
            raise coord.RequestRefused(StatusCode.RESOURCE_EXHAUSTED, "larger than the limit")
        more = len(page) < len(found)
        return coord.RangeResult(items=tuple(page), count=len(found), more=more, revision=7)


async def read_all(store: Narrow, page_size: int | None = None) -> list[int]:
    kv: Any = store
    pages = Pages(kv, (b"0", b"9"), page_size=page_size)
    return [len(i.value) async for page in pages for i in page.items]


async def test_pages_that_do_not_fit_a_message() -> None:
    sizes = [1] * 300 + [1000] * 30 + [1] * 20
    store = Narrow(sizes, 3000)
    assert await read_all(store) == sizes
    assert len(store.limits) > 10
    hopeless = Narrow([1, 5000], 3000)
    with pytest.raises(coord.RequestRefused, match="larger than the limit"):
        await read_all(hopeless)
    assert hopeless.limits[-1] == 1


async def test_pages_of_a_given_size_shrink_where_they_do_not_fit() -> None:
    sizes = [1] * 30 + [1000] * 10 + [1] * 25
    store = Narrow(sizes, 3000)
    assert await read_all(store, page_size=10) == sizes
    assert store.limits[:3] == [10, 10, 10]
    assert 2 in store.limits
    assert max(store.limits) == store.limits[-1] == 10  # the size that was asked for, again


async def test_pages_are_as_large_as_their_pairs_allow() -> None:
    store = Narrow([40_000] * 400, 1 << 40)
    await read_all(store)
    assert store.limits == [256, 104, 104]
    store = Narrow([1] * 900, 1 << 40)
    await read_all(store)
    assert store.limits == [256, 4096]


@pytest.mark.processes
@pytest.mark.parametrize("ordered", [True, False])
async def test_where_nobody_tells_of_progress_the_view_asks(
    monkeypatch: pytest.MonkeyPatch, *, ordered: bool
) -> None:
    monkeypatch.setattr(mirror, "_QUIET_S", 0.02)

    def judged(version: str) -> bool:
        assert version
        return ordered

    monkeypatch.setattr(mirror, "is_ordered", judged)
    # The server tells idle watches every 10 minutes.
    async with (
        coord.connect("memory:", runtime="inline") as client,
        client.cache(prefix="w/", timeout=20) as view,
    ):
        kv = client._core.kv
        read, asked = kv.range, list[rpc_pb2.RangeRequest]()

        async def noted(
            request: rpc_pb2.RangeRequest, *, timeout: float | None = None
        ) -> coord.RangeResult:
            asked.append(request)
            return await read(request, timeout=timeout)

        monkeypatch.setattr(kv, "range", noted)
        for _ in range(2):
            done = await client.put("elsewhere", "")
            async with asyncio.timeout(20):
                while view.as_of < done.revision:
                    await asyncio.sleep(0.01)
            assert view.revision < done.revision
            assert view.stale_for == 0
        # The store stands still: the header alone is looked at.
        asked.clear()
        async with asyncio.timeout(20):
            while len(asked) < 3:
                await asyncio.sleep(0.01)
        assert not any(request.min_mod_revision for request in asked)
    count = len(asked)
    await asyncio.sleep(0.1)
    assert len(asked) == count


async def test_the_loss_of_a_leader(tmp_path: Path) -> None:
    async with (
        Cluster(tmp_path) as cluster,
        coord.connect(cluster.endpoints) as client,
        client.cache(prefix="k/") as view,
        client.watch("k/", prefix=True, resync=True) as watch,
    ):
        followed: Held = {}
        reader = asyncio.ensure_future(follow(view.changes(), followed))
        await client.put("k/0", "0")
        leader = await cluster.leader()
        await leader.kill()
        for number in range(1, 20):
            await client.put(f"k/{number % 5}", str(number), timeout=30)
        await view.sync(timeout=30)
        assert dict(view.items()) == {
            b"k/0": b"15",
            b"k/1": b"16",
            b"k/2": b"17",
            b"k/3": b"18",
            b"k/4": b"19",
        }
        seen = [(await anext(watch)).value for _ in range(20)]
        assert seen == [str(number).encode() for number in range(20)]
        while followed != content(view.snapshot()):
            await asyncio.sleep(0)
        reader.cancel()
