"""Optimistic transactions: what they see, what they keep apart, and when they are run again."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

import coord
import coord.sync
from coord import op
from coord.store.stm_check import Known
from coord.store.stm_txn import ISOLATIONS, Isolation

UPPER: tuple[Isolation, ...] = ("serializable_snapshot", "serializable")
CHECKED: tuple[Isolation, ...] = (*UPPER, "repeatable_reads")
every_level = pytest.mark.parametrize("isolation", ISOLATIONS)
checked_levels = pytest.mark.parametrize("isolation", CHECKED)


def number(value: bytes | None) -> int:
    assert value is not None
    return int(value)


class Once:
    """Does something in the first attempt only, as another client would in between."""

    def __init__(self, act: Callable[[], Awaitable[object]]) -> None:
        self._act = act
        self.attempts = 0

    async def __call__(self) -> None:
        self.attempts += 1
        if self.attempts == 1:
            await self._act()


@every_level
async def test_reads_and_writes(client: coord.Client, prefix: str, isolation: Isolation) -> None:
    await client.put(prefix + "a", "1")
    seen = await client.put(prefix + "b", "2")

    async def swap(tx: coord.StmTxn) -> str:
        a, b = await tx.get(prefix + "a"), await tx.get(prefix + "b")
        assert a is not None
        assert b is not None
        assert await tx.get(prefix + "none") is None
        assert await tx.get(prefix + "none", b"default") == b"default"
        assert (tx.revision(prefix + "b"), tx.revision(prefix + "none")) == (seen.revision, 0)
        tx.put(prefix + "a", b)
        tx.put(prefix + "b", a)
        tx.delete(prefix + "none")
        return "swapped"

    done = await client.stm(swap, isolation=isolation)
    assert done.value == "swapped"
    found = (await client.get_prefix(prefix)).items
    assert [(kv.value, kv.mod_revision) for kv in found] == [
        (b"2", done.revision),
        (b"1", done.revision),
    ]


@every_level
async def test_own_writes_are_seen(client: coord.Client, prefix: str, isolation: Isolation) -> None:
    await client.put(prefix + "a", "1")
    await client.put(prefix + "b", "2")

    async def body(tx: coord.StmTxn) -> None:
        raw = prefix.encode()
        tx.put(prefix + "c", "3")
        assert await tx.get(prefix + "c") == b"3"
        tx.delete(prefix + "a")
        assert await tx.get(prefix + "a", b"gone") == b"gone"
        assert await tx.range(prefix) == {raw + b"b": b"2", raw + b"c": b"3"}
        assert list(await tx.range("")) == sorted(await tx.range(""))
        tx.put(prefix + "a", "new")
        assert await tx.get(prefix + "a") == b"new"
        assert list(await tx.range(prefix)) == [raw + b"a", raw + b"b", raw + b"c"]
        raise asyncio.InvalidStateError  # nothing of it is kept

    with pytest.raises(asyncio.InvalidStateError):
        await client.stm(body, isolation=isolation)
    assert [kv.value for kv in (await client.get_prefix(prefix)).items] == [b"1", b"2"]


@every_level
async def test_nothing_written(client: coord.Client, prefix: str, isolation: Isolation) -> None:
    await client.put(prefix + "a", "1")

    async def look(tx: coord.StmTxn) -> tuple[bytes | None, dict[bytes, bytes]]:
        return await tx.get(prefix + "a"), await tx.range(prefix)

    done = await client.stm(look, isolation=isolation)
    assert done.value == (b"1", {prefix.encode() + b"a": b"1"})
    again = await client.get_prefix(prefix, revision=done.revision)
    assert [kv.value for kv in again.items] == [b"1"]

    async def nothing(tx: coord.StmTxn) -> None:
        assert isinstance(tx, coord.StmTxn)

    assert (await client.stm(nothing, isolation=isolation)).revision == 0


async def test_blind_writes(client: coord.Client, prefix: str) -> None:
    async def write(tx: coord.StmTxn) -> None:
        tx.put(prefix + "a", "1")
        tx.put(prefix + "b", "2")

    for marker in (True, False):
        done = await client.stm(write, marker=marker)
        found = (await client.get_prefix(prefix)).items
        assert [kv.mod_revision for kv in found] == [done.revision] * 2


@pytest.mark.parametrize("isolation", UPPER)
async def test_everything_is_read_at_one_revision(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    for name in "abc":
        await client.put(prefix + name, "old")

    async def change() -> None:
        for name in "abcd":
            await client.put(prefix + name, "new")

    async def look(tx: coord.StmTxn) -> list[bytes | None]:
        first = await tx.get(prefix + "a")
        await change()
        async with asyncio.TaskGroup() as group:
            rest = [group.create_task(tx.get(prefix + name)) for name in "bc"]
            whole = group.create_task(tx.range(prefix))
        assert len(whole.result()) == 3
        return [first, *(task.result() for task in rest), *whole.result().values()]

    assert (await client.stm(look, isolation=isolation)).value == [b"old"] * 6


async def test_tasks_of_one_function_agree_on_the_first_read(
    client: coord.Client, prefix: str
) -> None:
    names = [f"{prefix}{n}" for n in range(8)]
    stop = asyncio.Event()

    async def write() -> None:
        for turn in itertools.count():
            if stop.is_set():
                return
            await client.txn().then(*[op.put(name, str(turn)) for name in names]).commit()

    async def look(tx: coord.StmTxn) -> list[bytes | None]:
        async with asyncio.TaskGroup() as group:
            reads = [group.create_task(tx.get(name)) for name in names]
        return [read.result() for read in reads]

    async with asyncio.TaskGroup() as group:
        group.create_task(write())
        for _ in range(20):
            assert len(set((await client.stm(look)).value)) == 1
        stop.set()


# What may come in between.


@checked_levels
async def test_a_changed_key_means_another_attempt(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    await client.put(prefix + "n", "1")
    meanwhile = Once(lambda: client.put(prefix + "n", "10"))

    async def add(tx: coord.StmTxn) -> int:
        value = number(await tx.get(prefix + "n")) + 1
        await meanwhile()
        tx.put(prefix + "n", str(value))
        return value

    assert (await client.stm(add, isolation=isolation)).value == 11
    assert meanwhile.attempts == 2


async def test_read_committed_overwrites(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "n", "1")
    meanwhile = Once(lambda: client.put(prefix + "n", "10"))

    async def add(tx: coord.StmTxn) -> None:
        value = number(await tx.get(prefix + "n")) + 1
        await meanwhile()
        assert number(await tx.get(prefix + "n")) == value - 1  # a key reads the same
        tx.put(prefix + "n", str(value))

    await client.stm(add, isolation="read_committed")
    found = await client.get(prefix + "n")
    assert found is not None
    assert (found.value, meanwhile.attempts) == (b"2", 1)


@checked_levels
async def test_a_missing_key_that_appears(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    meanwhile = Once(lambda: client.put(prefix + "k", "theirs"))

    async def create(tx: coord.StmTxn) -> bytes | None:
        found = await tx.get(prefix + "k")
        await meanwhile()
        if found is None:
            tx.put(prefix + "k", "ours")
        return found

    assert (await client.stm(create, isolation=isolation)).value == b"theirs"


@checked_levels
@pytest.mark.parametrize("what", ["insert", "change", "delete", "replace"])
async def test_a_range_is_watched_over_as_a_whole(
    client: coord.Client, prefix: str, isolation: Isolation, what: str
) -> None:
    jobs = prefix + "jobs/"
    for name in "ac":
        await client.put(jobs + name, "1")

    async def interfere() -> None:
        match what:
            case "insert":
                await client.put(jobs + "b", "1")
            case "change":
                await client.put(jobs + "a", "2")
            case "delete":
                await client.delete(jobs + "c")
            case _:
                await client.delete(jobs + "c")
                await client.put(jobs + "c", "3")

    meanwhile = Once(interfere)

    async def total(tx: coord.StmTxn) -> int:
        value = sum(int(v) for v in (await tx.range(jobs)).values())
        await meanwhile()
        tx.put(prefix + "sum", str(value))
        return value

    expected = {"insert": 3, "change": 3, "delete": 1, "replace": 4}[what]
    assert (await client.stm(total, isolation=isolation)).value == expected
    assert meanwhile.attempts == 2
    # A phantom gets through where nothing is checked.
    meanwhile.attempts = 0
    await client.delete_prefix(jobs)
    await client.put(jobs + "c", "0")
    await client.put(jobs + "a", "1")
    await client.stm(total, isolation="read_committed")
    assert meanwhile.attempts == 1


async def skewed(client: coord.Client, prefix: str, isolation: Isolation) -> int:
    """Let two doctors go off duty at once, each because the other one is on; return who is left."""
    for name in "ab":
        await client.put(prefix + name, "on")
    both = asyncio.Barrier(2)

    async def leave(me: str) -> None:
        attempts = 0

        async def body(tx: coord.StmTxn) -> None:
            nonlocal attempts
            attempts += 1
            on = [name for name in "ab" if await tx.get(prefix + name) == b"on"]
            if attempts == 1:
                await both.wait()
            if len(on) == 2:
                tx.put(prefix + me, "off")

        await client.stm(body, isolation=isolation)

    async with asyncio.TaskGroup() as group:
        for name in "ab":
            group.create_task(leave(name))
    return sum(kv.value == b"on" for kv in (await client.get_prefix(prefix)).items)


@checked_levels
async def test_write_skew_is_prevented(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    assert await skewed(client, prefix, isolation) == 1


async def test_write_skew_happens_without_checks(client: coord.Client, prefix: str) -> None:
    assert await skewed(client, prefix, "read_committed") == 0


@every_level
async def test_keys_that_are_only_written(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    """The top level also keeps what it writes from being overwritten unseen."""
    meanwhile = Once(lambda: client.put(prefix + "out", "theirs"))

    async def body(tx: coord.StmTxn) -> None:
        await tx.get(prefix + "in")
        await meanwhile()
        tx.put(prefix + "out", "ours")

    await client.stm(body, isolation=isolation)
    assert meanwhile.attempts == (2 if isolation == "serializable_snapshot" else 1)


async def test_repeatable_reads_may_come_from_different_times(
    client: coord.Client, prefix: str
) -> None:
    await client.put(prefix + "a", "1")
    await client.put(prefix + "b", "1")

    async def change() -> None:
        await client.put(prefix + "b", "2")

    meanwhile = Once(change)

    async def look(tx: coord.StmTxn) -> tuple[bytes | None, bytes | None]:
        first = await tx.get(prefix + "a")
        await meanwhile()
        return first, await tx.get(prefix + "b")

    assert (await client.stm(look, isolation="repeatable_reads")).value == (b"1", b"2")
    assert meanwhile.attempts == 1


async def test_repeatable_reads_are_checked_without_a_write(
    client: coord.Client, prefix: str
) -> None:
    await client.put(prefix + "a", "1")
    meanwhile = Once(lambda: client.put(prefix + "a", "2"))

    async def look(tx: coord.StmTxn) -> bytes | None:
        first = await tx.get(prefix + "a")
        await meanwhile()
        return first

    assert (await client.stm(look, isolation="repeatable_reads")).value == b"2"
    meanwhile.attempts = 0

    async def twice(tx: coord.StmTxn) -> bytes | None:
        first = await tx.get(prefix + "a")
        await meanwhile()
        assert (await tx.range(prefix))[prefix.encode() + b"a"] == first
        return first

    await client.put(prefix + "a", "1")
    assert (await client.stm(twice, isolation="repeatable_reads")).value == b"2"
    assert meanwhile.attempts == 2


@pytest.mark.parametrize("isolation", UPPER)
async def test_the_base_is_compacted_on_the_way(
    client: coord.Client, prefix: str, isolation: Isolation
) -> None:
    await client.put(prefix + "a", "1")
    await client.put(prefix + "b", "1")

    async def compact() -> None:
        last = await client.put(prefix + "b", "2")
        await client.compact(last.revision)

    for swallow in (False, True):
        meanwhile = Once(compact)

        async def add(
            tx: coord.StmTxn, *, meanwhile: Once = meanwhile, swallow: bool = swallow
        ) -> int:
            a = number(await tx.get(prefix + "a"))
            await meanwhile()
            # Whether the function lets the interruption through or not.
            with suppress(*([coord.CoordError] if swallow else [])):
                a += number(await tx.get(prefix + "b"))
                a += len(await tx.range(prefix))
            tx.put(prefix + "sum", str(a))
            return a

        done = await client.stm(add, isolation=isolation)
        assert done.value == 1 + 2 + (3 if swallow else 2)
        assert meanwhile.attempts == 2


# Ends.


async def test_conflicts_without_end_name_the_hottest_keys(
    client: coord.Client, prefix: str
) -> None:
    attempts = 0

    async def add(tx: coord.StmTxn) -> None:
        nonlocal attempts
        attempts += 1
        await tx.get(prefix + "cool")
        await tx.get(prefix + "hot")
        await tx.range(prefix + "jobs/")
        await client.put(prefix + "hot", str(attempts))
        if attempts == 2:
            await client.put(prefix + "jobs/1", "new")
        tx.put(prefix + "out", "x")

    with pytest.raises(coord.StmConflict, match="in all of 4 attempts") as caught:
        await client.stm(add, max_attempts=4)
    assert attempts == caught.value.attempts == 4
    assert caught.value.hottest == (
        (f"{prefix}hot".encode(), 4),
        (f"{prefix}jobs/1".encode(), 1),
    )
    assert "hot' (4 times)" in str(caught.value)
    assert await client.get(prefix + "out") is None


async def test_too_large_before_anything_is_sent(client: coord.Client, prefix: str) -> None:
    names = [f"{prefix}{n:03}" for n in range(129)]

    def write(count: int) -> Callable[[coord.StmTxn], Awaitable[None]]:
        async def body(tx: coord.StmTxn) -> None:
            for name in names[:count]:
                tx.put(name, "x")

        return body

    for count, marker in ((128, True), (129, False)):
        with pytest.raises(coord.TxnTooLarge, match=r"129, but at most 128"):
            await client.stm(write(count), marker=marker)
    assert await client.count(prefix) == 0
    await client.stm(write(127))
    await client.stm(write(128), marker=False)
    assert await client.count(prefix) == 128

    async def copy(tx: coord.StmTxn) -> int:
        pairs = await tx.range(prefix)
        tx.put(prefix + "0", "x")
        return len(pairs)

    with pytest.raises(coord.TxnTooLarge):
        await client.stm(copy)

    async def look(tx: coord.StmTxn) -> int:
        return len(await tx.range(prefix))

    assert (await client.stm(look)).value == 128


async def test_a_function_that_takes_too_long(client: coord.Client, prefix: str) -> None:
    async def sleep(tx: coord.StmTxn) -> None:
        tx.put(prefix, "x")
        await asyncio.Event().wait()

    with pytest.raises(coord.StmTimeout, match=r"within 0\.05 s: in attempt 1"):
        await client.stm(sleep, timeout=0.05)
    assert await client.get(prefix) is None

    async def fails(tx: coord.StmTxn) -> None:
        await tx.get(prefix)
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        await client.stm(fails)


async def test_a_transaction_ends_with_its_function(client: coord.Client, prefix: str) -> None:
    kept: list[coord.StmTxn] = []

    async def keep(tx: coord.StmTxn) -> None:
        kept.append(tx)

    await client.stm(keep)
    with pytest.raises(coord.InvalidArgument, match="has ended"):
        kept[0].put(prefix, "x")
    with pytest.raises(coord.InvalidArgument, match="has ended"):
        kept[0].delete(prefix)
    for read in (kept[0].get, kept[0].range):
        with pytest.raises(coord.InvalidArgument, match="has ended"):
            await read(prefix)


async def test_wrong_arguments(client: coord.Client, prefix: str) -> None:
    async def body(tx: coord.StmTxn) -> None:
        tx.revision(prefix)

    with pytest.raises(coord.InvalidArgument, match="has not been read"):
        await client.stm(body)
    with pytest.raises(coord.InvalidArgument, match="isolation is one of"):
        await client.stm(body, isolation="chaos")  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="max_attempts must be at least 1"):
        await client.stm(body, max_attempts=0)
    with pytest.raises(coord.InvalidArgument, match="timeout must be None or more"):
        await client.stm(body, timeout=0)
    with pytest.raises(coord.InvalidArgument, match="key must not be empty"):
        await client.stm(body, prefetch=("",))


async def test_leases(client: coord.Client, prefix: str) -> None:
    lease = await client.lease_grant(60)

    def write(lease_id: int) -> Callable[[coord.StmTxn], Awaitable[None]]:
        async def body(tx: coord.StmTxn) -> None:
            tx.put(prefix, "x", lease=lease_id)

        return body

    await client.stm(write(lease.id))
    assert (await client.lease_time_to_live(lease.id, keys=True)).keys == (prefix.encode(),)
    await client.lease_revoke(lease.id)
    for marker in (True, False):
        with pytest.raises(coord.LeaseNotFound):
            await client.stm(write(lease.id), marker=marker)


@every_level
async def test_guards(client: coord.Client, prefix: str, isolation: Isolation) -> None:
    grant = await client.mutex(prefix + "lock").acquire(timeout=10)

    async def work(tx: coord.StmTxn) -> bytes | None:
        tx.guard(grant)
        tx.guard(grant)
        before = await tx.get(prefix + "out")
        tx.put(prefix + "out", "x")
        return before

    async def look(tx: coord.StmTxn) -> bytes | None:
        tx.guard(grant)
        return await tx.get(prefix + "out")

    assert (await client.stm(work, isolation=isolation)).value is None
    assert (await client.stm(look, isolation=isolation)).value == b"x"
    written = await client.get(prefix + "out")

    async def steal(tx: coord.StmTxn) -> None:
        await work(tx)
        await client.delete(grant.key)

    async def steal_and_look(tx: coord.StmTxn) -> None:
        await look(tx)
        await client.delete(grant.key)

    for body in (steal, steal_and_look):
        with pytest.raises(coord.LockLost):
            await client.stm(body, isolation=isolation)
        assert await client.get(prefix + "out") == written
        await grant.release()
        grant = await client.mutex(prefix + "lock").acquire(timeout=10)
    await grant.release()
    with pytest.raises(coord.NotHeld):
        await client.stm(work, isolation=isolation)


async def test_debug_mode_runs_the_function_twice(client: coord.Client, prefix: str) -> None:
    calls = 0

    async def add(tx: coord.StmTxn) -> int:
        nonlocal calls
        calls += 1
        value = int(await tx.get(prefix, b"0") or b"0") + 1
        tx.put(prefix, str(value))
        return value

    assert (await client.stm(add)).value == 1
    assert calls == 1
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    try:
        assert (await client.stm(add)).value == 2
    finally:
        loop.set_debug(False)
    assert calls == 3


async def test_in_a_namespace(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(endpoint, namespace=prefix) as client,
        coord.connect(endpoint) as plain,
    ):
        meanwhile = Once(lambda: plain.put(prefix + "a", "theirs"))

        async def body(tx: coord.StmTxn) -> dict[bytes, bytes]:
            pairs = await tx.range("")
            await meanwhile()
            tx.put("b", str(len(pairs)))
            return {key: value for key, value in pairs.items() if not key.startswith(b"_coord/")}

        done = await client.stm(body)
        assert done.value == {b"a": b"theirs"}
        keys = {
            kv.key.removeprefix(prefix.encode()) for kv in (await plain.get_prefix(prefix)).items
        }
        assert {key[:10] for key in keys} == {b"a", b"b", b"_coord/op/"}


def test_from_threads(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        where: set[int] = set()

        def add(tx: coord.sync.StmTxn) -> int:
            where.add(threading.get_ident())
            value = int(tx.get(prefix + "n", b"0") or b"0") + 1
            tx.put(prefix + "n", str(value))
            tx.delete(prefix + "none")
            assert (tx.revision(prefix + "n") == 0) == (tx.get(prefix + "there") is None)
            tx.put(prefix + "there", "yes")
            assert tx.range(prefix + "n")[f"{prefix}n".encode()] == str(value).encode()
            return value

        def worker() -> None:
            for _ in range(10):
                client.stm(add, max_attempts=1000)

        threads = [threading.Thread(target=worker) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert where == {thread.ident for thread in threads}
        assert client.stm(add).value == 41

        def fail(tx: coord.sync.StmTxn) -> None:
            tx.put(prefix + "n", "0")
            raise KeyError

        with pytest.raises(KeyError):
            client.stm(fail)
        with client.mutex(prefix + "lock").hold(timeout=10) as grant:

            def guarded(tx: coord.sync.StmTxn) -> None:
                tx.guard(grant)
                tx.put(prefix + "n", "0")

            client.stm(guarded)
            client._portal.runtime.loop.set_debug(True)
            assert client.stm(add).value == 1


def test_a_single_read_is_what_is_checked_when_a_range_saw_another_state() -> None:
    """Two tasks of one function may read at different times where nothing pins them."""

    def pair(mod_revision: int) -> coord.KeyValue:
        return coord.KeyValue(
            key=b"k", value=b"", create_revision=1, mod_revision=mod_revision, version=1
        )

    calls: Any = None
    for seen in (0, 5, 9):
        tx = coord.StmTxn(calls, "repeatable_reads", Known())
        bounds = (b"k", b"l")
        found = coord.RangeResult(items=(pair(7),), count=1, more=False, revision=8)
        tx._reads[b"k"] = seen
        tx._ranges[bounds] = found
        conditions = tx.conditions()
        assert conditions.keys == {b"k": seen}
        assert conditions.ranges == {bounds: 8}
