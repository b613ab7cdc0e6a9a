"""Caches, on every store and carrier."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

import coord
from coord import op
from coord.store import paging
from tests.sdk.test_failures import reached
from tests.support.servers import free_port


@dataclass(frozen=True)
class Node:
    zone: str
    port: int = 0


def told(batch: coord.CacheBatch[bytes]) -> list[tuple[str, bytes | None, bytes | None]]:
    return [
        (
            change.key.decode().rpartition("/")[2],
            None if change.old is None else change.old.value,
            None if change.new is None else change.new.value,
        )
        for change in batch.changes
    ]


async def nobody_left(client: coord.Client) -> None:
    async def none() -> bool:
        return not len(client._mirrors) and not len(client._core.watches)

    await reached(none, "the mirrors and their watches have ended")


async def no_task_left(client: coord.Client) -> None:
    async def none() -> bool:
        return not len(client._core.supervisor)

    await reached(none, "the mirror, the decoder and the stream of watches have ended")


async def test_reads_like_a_dictionary(client: coord.Client, prefix: str) -> None:
    for name in ("a", "b/1", "b/2"):
        await client.put(prefix + name, name)
    async with client.cache(prefix=prefix) as view:
        assert view[prefix + "a"] == b"a"
        assert view.get(prefix + "x") is None
        assert view.get(prefix + "x", b"?") == b"?"
        with pytest.raises(KeyError):
            view[prefix + "x"]
        assert prefix + "a" in view
        assert prefix + "x" not in view
        assert len(view) == 3
        assert list(view) == [f"{prefix}{name}".encode() for name in ("a", "b/1", "b/2")]
        assert next(iter(view.keys(prefix + "b/"))) == f"{prefix}b/1".encode()
        assert [value for _, value in view.items(prefix + "b/")] == [b"b/1", b"b/2"]
        entry = view.entry(prefix + "a")
        assert entry is not None
        assert (entry.version, entry.mod_revision <= view.revision) == (1, True)
        assert next(iter(view.entries())) == entry
        assert view.revision <= view.as_of
        assert view.stale_for == 0.0 or await reached_fresh(view)
        assert "3 keys at revision" in repr(view)
        assert "3 keys" in repr(view.snapshot())
    with pytest.raises(coord.ClientClosed, match="the cache is closed"):
        view.get("a")
    await nobody_left(client)


async def reached_fresh(view: coord.Cache[Any]) -> bool:
    async def fresh() -> bool:
        return view.stale_for == 0.0

    await reached(fresh, "the store watches")
    return True


async def test_read_your_writes(client: coord.Client, prefix: str) -> None:
    async with client.cache(prefix=prefix) as view:
        for number in range(50):
            done = await client.put(prefix + "k", str(number))
            await view.wait_revision(done.revision, timeout=20)
            assert view[prefix + "k"] == str(number).encode()
        await view.wait_revision(1)
        gone = await client.delete(prefix + "k")
        await view.wait_revision(gone.revision, timeout=20)
        assert prefix + "k" not in view


async def test_sync_sees_the_writes_of_others(client: coord.Client, prefix: str) -> None:
    async with client.cache(prefix=prefix) as view:
        for number in range(20):
            done = await client.put(prefix + "k", str(number))
            assert await view.sync(timeout=20) >= done.revision
            assert view[prefix + "k"] == str(number).encode()
            # Nothing changes in the range: the view is as of now although no event says so.
            elsewhere = await client.put("elsewhere", "x")
            before = view.revision
            assert await view.sync(timeout=20) >= elsewhere.revision
            assert view.as_of >= elsewhere.revision
            assert view.revision == before


async def test_the_changes_of_a_revision_come_together(client: coord.Client, prefix: str) -> None:
    async with client.cache(prefix=prefix) as view:
        changes = view.changes()
        a, b, c = (prefix + name for name in "abc")
        first = await client.txn().then(op.put(a, "1"), op.put(b, "1")).commit()
        second = await client.txn().then(op.put(a, "2"), op.delete(b), op.put(c, "2")).commit()
        batch = await anext(changes)
        assert (batch.revision, told(batch)) == (first.revision, [("a", None, b"1"), ("b", None, b"1")])  # fmt: skip
        batch = await anext(changes)
        assert batch.revision == second.revision
        assert told(batch) == [("a", b"1", b"2"), ("b", b"1", None), ("c", None, b"2")]
        assert [change.key[-1:] for change in batch.puts] == [b"a", b"c"]
        assert [change.key[-1:] for change in batch.deletes] == [b"b"]
        assert not batch.coalesced
        assert not batch.resync
        await client.delete(a)
        await client.put(a, "2")
        gone, back = await anext(changes), await anext(changes)
        assert (told(gone), told(back)) == ([("a", b"2", None)], [("a", None, b"2")])
        await changes.aclose()
        with pytest.raises(coord.ClientClosed, match="the iterator is closed"):
            await anext(changes)


async def test_a_slow_reader_of_changes_gets_differences(
    client: coord.Client, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coord.cache.ledger._LOG_BATCHES", 4)
    async with client.cache(prefix=prefix) as view:
        changes = view.changes()
        for number in range(19):
            await client.put(f"{prefix}{number % 3}", str(number))
        done = await client.put(prefix + "1", "19")
        await client.delete(prefix + "gone")
        await view.wait_revision(done.revision, timeout=20)
        batch = await anext(changes)
        assert batch.coalesced
        assert told(batch) == [("0", None, b"18"), ("1", None, b"19"), ("2", None, b"17")]
        done = await client.put(prefix + "0", "on")
        batch = await anext(changes)
        assert (batch.coalesced, told(batch)) == (False, [("0", b"18", b"on")])


async def test_a_cancelled_reader_of_changes_loses_nothing(
    client: coord.Client, prefix: str
) -> None:
    async with client.cache(prefix=prefix) as view:
        changes = view.changes()
        seen: list[bytes] = []

        async def read() -> None:
            batch = await anext(changes)
            seen.extend(change.new.value for change in batch.puts if change.new)

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            reader = group.create_task(read())
            with pytest.raises(coord.InvalidArgument, match="another task is reading"):
                await asyncio.sleep(0)
                await anext(changes)
            for number in range(100):
                await client.put(prefix, str(number))
                reader.cancel()
                await asyncio.wait({reader})
                reader = group.create_task(read())
            while len(seen) < 100:
                await asyncio.wait({reader})
                reader = group.create_task(read())
            reader.cancel()
    assert seen == [str(number).encode() for number in range(100)]


async def test_a_snapshot_stays_as_it_is(client: coord.Client, prefix: str) -> None:
    async with client.cache(prefix=prefix) as view:
        done = await client.put(prefix + "k", "1")
        await view.wait_revision(done.revision, timeout=20)
        then = view.snapshot()
        gone = await client.delete(prefix + "k")
        await view.wait_revision(gone.revision, timeout=20)
        assert (prefix + "k" in view, then[prefix + "k"], then.revision) == (False, b"1", gone.revision - 1)  # fmt: skip
        assert then.snapshot() is then
    assert then[prefix + "k"] == b"1"  # for as long as you like


async def test_one_key(client: coord.Client, prefix: str) -> None:
    async with client.cache(key=prefix + "k", codec=str) as node:
        assert (node.value, node.pair, node.exists) == (None, None, False)
        await client.put(prefix + "k2", "another")
        done = await client.put(prefix + "k", "é")
        await node.wait_revision(done.revision, timeout=20)
        assert (node.value, node.exists, len(node)) == ("é", True, 1)
        assert node.pair is not None
        assert node.pair.mod_revision == done.revision


async def test_typed_by_a_codec(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", '{"zone":"eu"}')
    await client.put(prefix + "b", "broken")
    async with client.cache(prefix=prefix, codec=Node) as view:
        assert view[prefix + "a"] == Node("eu")
        assert prefix + "b" not in view
        assert "no Node" in str(view.undecodable[f"{prefix}b".encode()])
        changes = view.changes()
        await client.put(prefix + "a", "broken")
        done = await client.put(prefix + "b", '{"zone":"us","port":1}')
        await view.wait_revision(done.revision, timeout=20)
        assert view[prefix + "a"] == Node("eu")
        assert set(view.undecodable) == {f"{prefix}a".encode()}
        batch = await anext(changes)
        assert [(c.old, c.new and c.new.value) for c in batch.changes] == [(None, Node("us", 1))]
        assert await view.sync(timeout=20) >= done.revision


async def test_an_index_follows(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", '{"zone":"eu"}')
    await client.put(prefix + "b", '{"zone":"us"}')
    async with client.cache(prefix=prefix, codec=Node) as view:
        assert [entry.key[-1:] for entry in view.index("zone")["eu"]] == [b"a"]
        await client.put(prefix + "c", '{"zone":"eu"}')
        done = await client.put(prefix + "b", '{"zone":"asia"}')
        await view.wait_revision(done.revision, timeout=20)
        index = view.index("zone")
        assert [entry.key[-1:] for entry in index["eu"]] == [b"a", b"c"]
        assert (set(index), "us" in index, index["us"]) == ({"eu", "asia"}, False, ())


async def test_caches_of_one_range_share_a_watch(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", "1")
    raw, text = client.cache(prefix=prefix), client.cache(prefix=prefix, codec=str)
    async with raw, text, client.cache(prefix=prefix + "a") as other:
        assert len(client._mirrors) == 2
        assert len(client._core.watches) == 2
        raw.close()
        raw.close()
        done = await client.put(prefix + "a", "2")
        for view in (text, other):
            await view.wait_revision(done.revision, timeout=20)
        assert (text[prefix + "a"], other[prefix + "a"]) == ("2", b"2")
        async with client.cache(prefix=prefix) as again:
            assert again[prefix + "a"] == b"2"
            assert len(client._mirrors) == 2
    await nobody_left(client)


async def test_a_cache_that_nobody_closes(client: coord.Client, prefix: str) -> None:
    view = client.cache(prefix=prefix)
    await view.open()
    with pytest.raises(coord.InvalidArgument, match="the cache is open"):
        await view.open()
    del view
    gc.collect()
    await nobody_left(client)


async def test_it_ends_with_the_client(client: coord.Client, prefix: str) -> None:
    view = client.cache(prefix=prefix)
    await view.open()
    waiting = asyncio.ensure_future(anext(view.changes()))
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(coord.ClientClosed):
        await waiting
    with pytest.raises(coord.ClientClosed):
        view.get("k")
    with pytest.raises(coord.ClientClosed):
        await client.cache(prefix=prefix).open()
    view.close()


async def test_too_much(client: coord.Client, prefix: str) -> None:
    for number in range(5):
        await client.put(f"{prefix}{number}", b"x" * 100)
    roomy = client.cache(prefix=prefix)
    with pytest.raises(coord.CacheOverflow, match="more than 4 keys"):
        await client.cache(prefix=prefix, max_keys=4).open()
    with pytest.raises(coord.CacheOverflow, match="more than 500 bytes"):
        await client.cache(prefix=prefix, max_bytes=500).open()
    await nobody_left(client)
    full = client.cache(prefix=prefix, max_keys=5)
    heavy = client.cache(prefix=prefix, max_bytes=1000, codec=bytes)
    async with full, roomy, heavy:
        with pytest.raises(coord.CacheOverflow):  # the mirror is there already
            await client.cache(prefix=prefix, max_keys=4).open()
        waiting = asyncio.ensure_future(anext(full.changes()))
        done = await client.put(prefix + "5", b"")
        await roomy.wait_revision(done.revision, timeout=20)
        assert len(roomy) == 6
        with pytest.raises(coord.CacheOverflow, match="more than 5 keys"):
            await full.sync()
        with pytest.raises(coord.CacheOverflow):
            full.get("k")
        with pytest.raises(coord.CacheOverflow):
            await waiting
            await anext(full.changes())
        done = await client.put(prefix + "5", b"x" * 600)
        await roomy.wait_revision(done.revision, timeout=20)
        with pytest.raises(coord.CacheOverflow, match="more than 1000 bytes"):
            len(heavy)
        done = await client.put(prefix + "5", b"")
        await roomy.wait_revision(done.revision, timeout=20)
    await nobody_left(client)


async def test_pages(client: coord.Client, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "_FIRST_KEYS", 3)
    monkeypatch.setattr(paging, "_MAX_KEYS", 2)
    for number in range(10):
        await client.put(f"{prefix}{number}", b"")
    async with client.cache(prefix=prefix) as view:
        assert len(view) == 10


async def test_no_endpoint_no_contents(prefix: str) -> None:
    async with coord.connect(f"127.0.0.1:{free_port()}", request_timeout=0.1) as client:
        with pytest.raises(coord.CacheTimeout, match="opening the cache") as caught:
            async with client.cache(prefix=prefix, timeout=0.3):
                pytest.fail("it cannot be complete")
        assert caught.value.timeout == 0.3
        await nobody_left(client)
        view = client.cache(prefix=prefix)
        opening = asyncio.ensure_future(view.open())
        await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        await nobody_left(client)


async def test_timeouts_of_a_view(client: coord.Client, prefix: str) -> None:
    async with client.cache(prefix=prefix) as view:
        with pytest.raises(coord.CacheTimeout, match="it is behind revision"):
            await view.wait_revision(1 << 40, timeout=0.1)
        with pytest.raises(TimeoutError):
            await view.sync(timeout=0)


async def test_any_thread_and_loop_may_read(client: coord.Client, prefix: str) -> None:
    async with client.cache(prefix=prefix) as view:
        stop = threading.Event()
        torn: list[object] = []

        def read() -> None:
            last = 0
            while not stop.is_set():
                now = view.snapshot()
                values = {value for _, value in now.items()}
                if len(values) > 1 or now.revision < last:
                    torn.append((now.revision, values))
                last = now.revision

        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for number in range(60):
                puts = [op.put(f"{prefix}{n}", str(number)) for n in range(20)]
                await client.txn().then(*puts).commit()
            last = await view.sync(timeout=30)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert torn == []
        assert {value for _, value in view.items()} == {b"59"}

        if client._core.runtime.is_threaded:

            def elsewhere() -> int:
                return asyncio.run(view.sync(timeout=20))

            assert await asyncio.to_thread(elsewhere) >= last


def test_wrong_arguments() -> None:
    client: Any = coord.Client.__new__(coord.Client)
    client._mirrors = None
    with pytest.raises(coord.InvalidArgument, match="either prefix or key"):
        client.cache(prefix="a", key="b")
    with pytest.raises(coord.InvalidArgument, match="either prefix or key"):
        client.cache()
    with pytest.raises(coord.InvalidArgument, match="at least 1"):
        client.cache(prefix="a", max_keys=0)
    with pytest.raises(coord.InvalidArgument, match="key must not be empty"):
        client.cache(key="")
    with pytest.raises(coord.InvalidArgument, match="neither a type nor a codec"):
        client.cache(prefix="", codec=5)


async def cancelled_at(coro: Coroutine[Any, Any, object], step: int, *, twice: bool) -> bool:
    """Run ``coro`` for ``step`` turns of the loop and cancel it; say whether it had finished by then."""
    task = asyncio.ensure_future(coro)
    for _ in range(step):
        await asyncio.sleep(0)
    if task.done():
        await task
        return True
    task.cancel()
    if twice:
        await asyncio.sleep(0)
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return False


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("codec", [None, str], ids=["bytes", "str"])
async def test_a_start_cancelled_at_each_await_leaves_nothing(
    codec: type[str] | None, *, twice: bool
) -> None:
    async with coord.connect("memory:", runtime="inline") as client:
        await client.put("k", "v")
        for step in range(300):
            view: coord.Cache[Any] = client.cache(prefix="", codec=codec)
            finished = await cancelled_at(view.open(), step, twice=twice)
            view.close()
            await nobody_left(client)
            await no_task_left(client)
            if finished:
                break
        else:
            pytest.fail("it never opened")


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
async def test_a_sync_cancelled_at_each_await_changes_nothing(*, twice: bool) -> None:
    connecting = coord.connect("memory:", runtime="inline")
    async with connecting as client, client.cache(prefix="k") as view:
        for step in range(300):
            done = await client.put("k", str(step))
            finished = await cancelled_at(view.sync(), step, twice=twice)
            assert await view.sync(timeout=20) >= done.revision
            assert view["k"] == str(step).encode()
            if finished:
                break
        else:
            pytest.fail("it never ended")


async def test_rights_that_are_taken_away(
    client: coord.Client, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client.cache(prefix=prefix) as view, client.cache(prefix=prefix, codec=str) as text:
        core: Any = client._core
        denied = coord.PermissionDenied("etcdserver: permission denied")
        core.runtime.post(lambda: core.watches._fail_all(denied))
        for each in (view, text):
            with pytest.raises(coord.PermissionDenied):
                await each.wait_revision(1 << 40, timeout=20)
            with pytest.raises(coord.PermissionDenied):
                each.get(prefix)
    async with client.cache(prefix=prefix) as again:  # they may be back
        assert len(again) == 0


async def test_a_forked_child_reads_nothing(client: coord.Client, prefix: str) -> None:
    async with client.cache(prefix=prefix) as view:
        runtime: Any = client._core.runtime
        pid, runtime._pid = runtime._pid, -1
        try:
            with pytest.raises(coord.ForkedError):
                view.get("k")
        finally:
            runtime._pid = pid
