"""Batches: few transactions, each operation's own outcome, and an order per key."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coord
import coord.sync
from coord.store import operations as op
from coord.store.batch import Item, Kind, Pending, pack
from tests.sdk.conftest import STORES
from tests.support.faulty import TXN, Fault, make_faulty
from tests.support.servers import ServerProcess

# The packing, by itself.


async def unsent() -> None:
    raise AssertionError


def item(kind: Kind, key: bytes, size: int) -> Item:
    return Item(kind, op.get(key), size, Pending(key, unsent))


items = st.lists(
    st.builds(
        item,
        st.sampled_from(Kind),
        st.sampled_from([b"a", b"b", b"c", b"d"]),
        st.integers(1, 12),
    ),
    max_size=40,
)


@given(items=items, max_ops=st.integers(1, 5), max_bytes=st.integers(5, 30))
def test_packing(items: list[Item], max_ops: int, max_bytes: int) -> None:
    waves = pack(items, max_ops=max_ops, max_bytes=max_bytes)
    placed = {
        id(each): (wave, group, index)
        for wave, groups in enumerate(waves)
        for group, members in enumerate(groups)
        for index, each in enumerate(members.items)
    }
    assert len(placed) == len(items) == sum(len(g.items) for wave in waves for g in wave)
    last: dict[bytes, tuple[int, int, int]] = {}
    for each in items:
        key, place = each.pending.key, placed[id(each)]
        before = last.get(key)
        if before is not None:
            # In the same transaction and behind, or in a later wave.
            assert before[:2] == place[:2] or before[0] < place[0]
            assert before < place
        last[key] = place
    for groups in waves:
        keys = [{each.pending.key for each in group.items} for group in groups]
        assert sum(map(len, keys)) == len(set[bytes]().union(*keys))
        for group in groups:
            assert 1 <= len(group.items) <= max_ops
            size = sum(each.size_bytes for each in group.items)
            assert size == group.size_bytes
            assert size <= max_bytes or len(group.items) == 1
            puts = [e.pending.key for e in group.items if e.kind is Kind.PUT]
            deletes = {e.pending.key for e in group.items if e.kind is Kind.DELETE}
            assert len(puts) == len(set(puts))
            assert not deletes & set(puts)


# On every store.


async def test_outcomes(client: coord.Client, prefix: str) -> None:
    lease = await client.lease_grant(60)
    await client.put(prefix + "old", "1")
    async with client.batch() as batch:
        put = batch.put(prefix + "a", "1", lease=lease.id)
        got = batch.get(prefix + "old")
        none = batch.get(prefix + "none")
        gone = batch.delete(prefix + "old", prev_kv=True)
        nothing = batch.delete(prefix + "none")
        assert (len(batch), put.done) == (5, False)
        with pytest.raises(coord.InvalidArgument, match="has not been sent yet"):
            put.result()
        assert await client.get(prefix + "a") is None
    assert put.done
    assert put.error is None
    found = await client.get(prefix + "a")
    assert found is not None
    assert (found.value, found.lease) == (b"1", lease.id)
    assert put.result() == coord.PutResult(revision=found.mod_revision)
    old = got.result()
    assert old is not None
    assert old.value == b"1"
    assert none.result() is None
    assert [kv.value for kv in gone.result().previous] == [b"1"]
    assert (gone.result().deleted, nothing.result().deleted) == (1, 0)
    assert gone.result().revision == put.result().revision
    assert await gone == gone.result()
    with pytest.raises(coord.InvalidArgument, match="the batch has ended"):
        batch.get(prefix)
    await client.lease_revoke(lease.id)


async def test_as_one_after_the_other(client: coord.Client, prefix: str) -> None:
    """Against a plain dictionary: each operation on a key sees those before it."""
    chance = random.Random(7)
    model: dict[str, bytes] = {}
    expected: list[object] = []
    told: list[Pending[Any]] = []
    async with client.batch(max_ops=10) as batch:
        for number in range(300):
            key = f"{prefix}{chance.randrange(12)}"
            match chance.choice(("put", "get", "delete")):
                case "put":
                    expected.append(model.get(key))
                    model[key] = str(number).encode()
                    told.append(batch.put(key, str(number), prev_kv=True))
                case "get":
                    expected.append(model.get(key))
                    told.append(batch.get(key))
                case _:
                    expected.append(model.pop(key, None))
                    told.append(batch.delete(key, prev_kv=True))

    def before(outcome: object) -> bytes | None:
        match outcome:
            case coord.PutResult(previous=pair):
                return None if pair is None else pair.value
            case coord.DeleteResult(previous=pairs):
                return pairs[0].value if pairs else None
            case coord.KeyValue(value=value):
                return value
            case _:
                return None

    assert [before(each.result()) for each in told] == expected
    left = (await client.get_prefix(prefix)).items
    assert {kv.key.decode(): kv.value for kv in left} == model


async def test_many(client: coord.Client, prefix: str) -> None:
    async with client.batch() as batch:
        told = [batch.put(f"{prefix}{n:04}", str(n)) for n in range(1000)]
    assert len({each.result().revision for each in told}) == 8
    assert await client.count(prefix) == 1000


async def test_a_failure_stays_with_its_transaction(client: coord.Client, prefix: str) -> None:
    batch = client.batch(max_ops=2)
    told = [batch.put(f"{prefix}{n}", "x", lease=12345 if n == 3 else 0) for n in range(6)]
    with pytest.raises(coord.BatchFailed, match="2 of 6 operations failed, the first on") as failed:
        async with batch:
            assert len(batch) == 6
    assert [each.error is not None for each in told] == [False, False, True, True, False, False]
    assert failed.value.sent == 6
    assert [key for key, _ in failed.value.errors] == [f"{prefix}{n}".encode() for n in (2, 3)]
    with pytest.raises(coord.LeaseNotFound):
        told[2].result()
    with pytest.raises(coord.LeaseNotFound):
        await told[3]
    assert await client.count(prefix) == 4


async def test_sizes(client: coord.Client, prefix: str) -> None:
    value = b"x" * 300_000
    async with client.batch() as batch:
        told = [batch.put(f"{prefix}{n}", value) for n in range(7)]
    assert len({each.result().revision for each in told}) == 3
    batch = client.batch()
    huge, small = batch.put(prefix + "huge", b"x" * 3_000_000), batch.put(prefix + "small", "x")
    with pytest.raises(coord.BatchFailed):
        await batch.flush()
    assert isinstance(huge.error, coord.TooLarge)
    assert small.error is None


async def test_sent_on_request(client: coord.Client, prefix: str) -> None:
    async with client.batch() as batch:
        first = batch.put(prefix + "a", "1")
        second = batch.get(prefix + "a")
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(each._wait()) for each in (second, first)]
        assert waiting[1].result() == first.result()
        assert await client.get(prefix + "a") is not None
        batch.put(prefix + "b", "x", lease=12345)
        with pytest.raises(coord.BatchFailed, match="1 of 3 operations"):
            await batch.flush()
        await batch.flush()
        batch.put(prefix + "c", "x")
    assert await client.get(prefix + "c") is not None


async def test_an_exception_in_the_block_sends_nothing(client: coord.Client, prefix: str) -> None:
    pending: Pending[coord.PutResult] | None = None
    with pytest.raises(KeyError):
        async with client.batch() as batch:
            pending = batch.put(prefix, "x")
            raise KeyError
    assert pending is not None
    with pytest.raises(coord.Unavailable, match="given up before this was sent"):
        pending.result()
    assert await client.get(prefix) is None


async def test_an_empty_batch(client: coord.Client) -> None:
    async with client.batch() as batch:
        assert len(batch) == 0


async def test_wrong_arguments(client: coord.Client) -> None:
    for max_ops in (0, 129):
        with pytest.raises(coord.InvalidArgument, match="max_ops must be from 1 to"):
            client.batch(max_ops=max_ops)
    with pytest.raises(coord.InvalidArgument, match="max_bytes must be at least 1"):
        client.batch(max_bytes=0)
    async with client.batch() as batch:
        with pytest.raises(coord.InvalidArgument, match="key must not be empty"):
            batch.put("", "x")


async def test_a_batch_has_a_bound(client: coord.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coord.store.batch.MAX_QUEUED", 2)
    async with client.batch() as batch:
        batch.get("a")
        batch.get("b")
        with pytest.raises(coord.InvalidArgument, match="flush the batch first"):
            batch.get("c")
        await batch.flush()
        batch.get("c")


@pytest.fixture(params=STORES)
async def inline(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[coord.Client]:
    """A client on the test's own loop, in a namespace of its own."""
    server: ServerProcess = request.getfixturevalue(f"{request.param}_process")
    async with coord.connect(
        server.endpoint, runtime="inline", namespace=f"batch/{prefix}"
    ) as made:
        yield made


async def test_a_lost_answer_is_told_to_each(inline: coord.Client) -> None:
    faulty = make_faulty(inline, [Fault.NONE, Fault.LOSE_REPLY])
    batch = inline.batch(max_ops=2)
    told = [batch.put(str(n), "x") for n in range(6)]
    with pytest.raises(coord.BatchFailed, match="2 of 6"):
        await batch.flush()
    assert faulty.paths.count(TXN) == 3
    unknown = [each for each in told if each.error is not None]
    assert len(unknown) == 2
    for each in unknown:
        with pytest.raises(coord.AmbiguousResult, match=repr(each.key)) as caught:
            each.result()
        there = await caught.value.resolve()
        assert isinstance(there, coord.KeyValue)
        assert (there.key, there.value) == (each.key, b"x")
    assert await inline.count("") == 6


async def test_reads_alone_are_repeated(inline: coord.Client) -> None:
    await inline.put("a", "1")
    make_faulty(inline, [Fault.LOSE_REPLY])
    async with inline.batch() as batch:
        got = batch.get("a")
    assert got.result() is not None


async def test_cancelled_on_the_way(inline: coord.Client) -> None:
    core: Any = inline._core
    started = asyncio.Event()

    class Stuck:
        max_ops = 128

        async def run(self, *_: object, **__: object) -> None:
            started.set()
            await asyncio.Event().wait()

    batch = inline.batch(max_ops=1)
    first, again, other = batch.put("a", "1"), batch.put("a", "2"), batch.put("b", "3")
    stuck: Any = Stuck()
    batch._txn = stuck
    task = asyncio.ensure_future(batch.flush())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    for each in (first, other):
        assert isinstance(each.error, coord.AmbiguousResult)
        assert await each.error.resolve() is None
    assert isinstance(again.error, coord.Unavailable)
    batch._txn = core.txn
    batch.put("c", "4")
    with pytest.raises(coord.BatchFailed, match="3 of 4"):
        await batch.flush()
    assert await inline.get("c") is not None


def test_from_threads(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        with client.batch() as batch:
            put = batch.put(prefix + "a", "1")
            got = batch.get(prefix + "a")
            assert (len(batch), put.done, put.error) == (2, False, None)
            found = got.result()
            assert found is not None
            assert found.value == b"1"
            gone = batch.delete(prefix + "a")
        assert gone.result().deleted == 1
        assert put.key == (prefix + "a").encode()
        failing = client.batch()
        bad = failing.put(prefix + "b", "x", lease=12345)
        with pytest.raises(coord.BatchFailed), failing:
            assert len(failing) == 1
        assert isinstance(bad.error, coord.LeaseNotFound)
        batch = client.batch()
        batch.put(prefix + "b", "x", lease=12345)
        with pytest.raises(coord.BatchFailed):
            batch.flush()


def test_resolving_from_threads(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        client.put(prefix, "x")
        batch = client.batch()
        pending = batch.put(prefix, "y")

        class Losing:
            async def run(self, *_: object, **__: object) -> None:
                raise coord.AmbiguousResult("Txn", "lost")

        losing: Any = Losing()
        batch._async._txn = losing
        with pytest.raises(coord.BatchFailed) as failed:
            batch.flush()
        for error in (pending.error, failed.value.errors[0][1]):
            assert isinstance(error, coord.sync.AmbiguousResult)
            there = error.resolve()
            assert isinstance(there, coord.KeyValue)
            assert there.value == b"x"
