"""Namespaces: a client that sees the keys under a prefix as if there were no others."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import coord
import coord.sync
from coord import compare, op
from coord.store.keys import FROM_KEY, prefix_end, prefix_range
from coord.store.keyspace import Keyspace
from coord.wire import rpc_pb2
from tests.sdk.conftest import FLAVOURS, Flavour
from tests.support.servers import ServerProcess

# Few letters, so that prefixes of each other, neighbours and the highest byte meet often.
LETTERS = (b"\0", b"a", b"b", b"\xfe", b"\xff")
raw = st.lists(st.sampled_from(LETTERS), max_size=3).map(b"".join)
keys = raw.filter(bool)


def holds(start: bytes, end: bytes, key: bytes) -> bool:
    """Whether a range has a key, by the definition alone (spec core 0.1)."""
    if not end:
        return key == start
    return key >= start and (end == FROM_KEY or key < end)


@given(prefix=keys, start=keys, end=raw, key=keys, stranger=raw)
def test_a_stored_range_has_exactly_the_keys_of_the_users_range(
    prefix: bytes, start: bytes, end: bytes, key: bytes, stranger: bytes
) -> None:
    space = Keyspace(prefix)
    request = rpc_pb2.RangeRequest(key=start, range_end=end)
    space.range(request)
    assert holds(request.key, request.range_end, prefix + key) == holds(start, end, key)
    if not stranger.startswith(prefix):
        assert not holds(request.key, request.range_end, stranger)


@given(prefix=keys, wanted=raw, key=keys, stranger=raw)
def test_a_prefix_stays_a_prefix(prefix: bytes, wanted: bytes, key: bytes, stranger: bytes) -> None:
    start, end = prefix_range(wanted)
    space = Keyspace(prefix)
    assert holds(prefix + start, space.end(end), prefix + key) == key.startswith(wanted)
    if not stranger.startswith(prefix):
        assert not holds(prefix + start, space.end(end), stranger)


@given(prefix=raw, stored=st.lists(raw))
def test_own_keys(prefix: bytes, stored: list[bytes]) -> None:
    expected = tuple(k[len(prefix) :] for k in stored if k.startswith(prefix) and k != prefix)
    assert Keyspace(prefix).own(stored) == expected


def test_without_a_prefix_nothing_changes() -> None:
    space = Keyspace()
    request = rpc_pb2.TxnRequest(
        compare=[rpc_pb2.Compare(key=b"a", range_end=FROM_KEY)],
        success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))],
    )
    before = request.SerializeToString(deterministic=True)
    space.txn(request)
    assert request.SerializeToString(deterministic=True) == before
    assert [space.end(end) for end in (b"", FROM_KEY, b"z")] == [b"", FROM_KEY, b"z"]


Pair = tuple[coord.Client, coord.Client, bytes]


@pytest.fixture(params=FLAVOURS[:-1], ids=str)
async def client_pair(request: pytest.FixtureRequest, prefix: str) -> AsyncIterator[Pair]:
    """A client in a namespace, one outside on the same store, and the namespace."""
    flavour: Flavour = request.param
    server: ServerProcess = request.getfixturevalue(f"{flavour.store}_process")
    space = f"space/{prefix}".encode()
    async with (
        coord.connect(
            server.endpoint,
            namespace=space,
            transport=flavour.transport,
            runtime=flavour.runtime,
        ) as client,
        coord.connect(server.endpoint) as plain,
    ):
        yield client, plain, space


# On every store.

PREFIXES = (b"n/", b"n\xff", b"\xff\xff")
NAMES = tuple(
    b"".join(letters)
    for size in (1, 2)
    for letters in itertools.product((b"\0", b"a", b"\xff"), repeat=size)
)
BOUNDS = (b"", FROM_KEY, b"\0\0", b"a", b"a\xff", b"b", b"\xff", b"\xff\xff\xff")


@pytest.fixture(params=PREFIXES, ids=repr)
def space(request: pytest.FixtureRequest, prefix: str) -> bytes:
    """A namespace of the test's own; the last one has nothing behind it but itself."""
    given: bytes = request.param
    return given + prefix.encode() if given.startswith(b"n") else given


async def fill(client: coord.Client) -> dict[bytes, bytes]:
    """Put pairs into the namespace and return them."""
    await client.delete_prefix("")
    inside = {name: b"in " + name for name in NAMES}
    for name, value in inside.items():
        await client.put(name, value)
    return inside


async def surround(plain: coord.Client, space: bytes) -> list[bytes]:
    """Put keys right before and behind the namespace and return them."""
    around = [space, space[:-1], space[:-1] + b"\x01", prefix_end(space)]
    strangers = [key for key in around if key != FROM_KEY]
    for key in strangers:
        await plain.put(key, "outside")
    return strangers


async def test_every_form_of_range(endpoint: str, space: bytes) -> None:
    async with coord.connect(endpoint) as plain, coord.connect(endpoint, namespace=space) as client:
        inside = await fill(client)
        strangers = await surround(plain, space)
        for start, end in itertools.product(NAMES, BOUNDS):
            expected = sorted(name for name in NAMES if holds(start, end, name))
            found = await client.get_range(start, end)
            assert [kv.key for kv in found.items] == expected
            assert all(kv.value == inside[kv.key] for kv in found.items)
            done = await (
                client.txn()
                .when(
                    compare.version(start, end=end) == 1
                    if expected
                    else compare.missing(start, end=end)
                )
                .then(op.txn((), (op.get_range(start, end),)))
                .commit()
            )
            assert done.succeeded
            nested = done.responses[0]
            assert isinstance(nested, coord.TxnResult)
            assert [kv.key for kv in nested.range(0).items] == expected
        assert (await client.count("")) == len(NAMES)
        # Deleting everything means everything in the namespace.
        gone = await client.delete_prefix("", prev_kv=True)
        assert [kv.key for kv in gone.previous] == sorted(NAMES)
        for key in strangers:
            assert (await plain.delete(key)).deleted == 1


async def test_single_keys_and_previous_pairs(client_pair: Pair) -> None:
    client, plain, space = client_pair
    name = f"k-{space.hex()}"  # others have keys outside of the namespace
    put = await client.put(name, "1", prev_kv=True)
    assert put.previous is None
    again = await client.put(name, "2", prev_kv=True)
    assert again.previous is not None
    assert again.previous.key == name.encode()
    kept = await client.put(name, "", ignore_value=True)
    found = await client.get(name)
    assert found is not None
    assert (found.key, found.value, found.mod_revision) == (name.encode(), b"2", kept.revision)
    assert await client.get(name, revision=again.revision) is not None
    stored = await plain.get(space + name.encode())
    assert stored is not None
    assert stored.value == b"2"
    assert await plain.get(name) is None
    done = await (
        client.txn()
        .when(compare.value(name) == "2", compare.exists(name))
        .then(op.put(name, "3", prev_kv=True), op.get(name))
        .commit()
    )
    written, read = done.responses
    assert isinstance(written, coord.PutResult)
    assert written.previous is not None
    assert written.previous.key == name.encode()
    assert isinstance(read, coord.RangeResult)
    assert [(kv.key, kv.value) for kv in read.items] == [(name.encode(), b"3")]
    gone = await client.delete(name, prev_kv=True)
    assert [kv.key for kv in gone.previous] == [name.encode()]
    assert await plain.get(space + name.encode()) is None


async def test_watches(client_pair: Pair) -> None:
    client, plain, space = client_pair
    async with (
        client.watch("", prefix=True, prev_kv=True) as everything,
        client.watch("k") as one,
        client.watch("k", end=b"\0") as rest,
    ):
        await plain.put(prefix_end(space), "outside")
        await plain.put(space[:-1], "outside")
        await client.put("a", "1")
        await client.put("k", "2")
        await client.delete("a")
        await client.put("z", "3")
        seen = [await anext(everything) for _ in range(4)]
        assert [event.key for event in seen] == [b"a", b"k", b"a", b"z"]
        assert seen[2].previous is not None
        assert (seen[2].previous.key, seen[2].previous.value) == (b"a", b"1")
        assert (await anext(one)).key == b"k"
        assert [(await anext(rest)).key for _ in range(2)] == [b"k", b"z"]
    await plain.delete_range(space[:-1], prefix_end(space) + b"\0")


async def test_the_keys_of_a_lease(client_pair: Pair) -> None:
    client, plain, _ = client_pair
    lease = await client.lease_grant(60)
    await client.put("mine", "x", lease=lease.id)
    await plain.put("elsewhere-" + str(lease.id), "x", lease=lease.id)
    assert (await client.lease_time_to_live(lease.id, keys=True)).keys == (b"mine",)
    assert len((await plain.lease_time_to_live(lease.id, keys=True)).keys) == 2
    await client.lease_revoke(lease.id)


async def test_recipes_of_two_namespaces_do_not_meet(endpoint: str, prefix: str) -> None:
    one, other = f"{prefix}one/", f"{prefix}other/"
    async with (
        coord.connect(endpoint, namespace=one) as first,
        coord.connect(endpoint, namespace=one) as second,
        coord.connect(endpoint, namespace=other) as stranger,
    ):
        async with first.mutex("jobs").hold(timeout=10) as grant:
            assert grant.key.startswith(b"jobs/")
            assert await second.mutex("jobs").try_acquire() is None
            async with stranger.mutex("jobs").hold(timeout=10):
                pass
            holder = await second.mutex("jobs").holder()
            assert holder is not None
            assert (holder.key, holder.token) == (grant.key, grant.token)
            with pytest.raises(coord.LockTimeout) as caught:
                await second.mutex("jobs").acquire(timeout=0.05)
            assert prefix not in str(caught.value)
            # The guard compares in the same namespace.
            done = await first.txn().when(grant.guard()).then(op.put("done", "1")).commit()
            assert done.succeeded
            waiting = asyncio.ensure_future(second.mutex("jobs").acquire(timeout=30))
        await (await waiting).release()
        async with (
            first.election("boss").lead("me", timeout=10) as term,
            stranger.election("boss").lead("me, too", timeout=10),
        ):
            leader = await second.election("boss").leader()
            assert (leader.key, leader.token, leader.value) == (term.key, term.token, b"me")
        assert await stranger.get("done") is None


async def test_a_lost_grant_is_noticed_in_a_namespace(endpoint: str, prefix: str) -> None:
    async with coord.connect(endpoint, namespace=prefix) as client:
        grant = await client.mutex("jobs").acquire(timeout=10)
        await client.delete(grant.key)
        async with asyncio.timeout(30):
            await grant.lost.wait()
        with pytest.raises(coord.LockLost, match="'jobs'"):
            grant.check()


async def test_in_the_url(endpoint: str, prefix: str) -> None:
    async with (
        coord.connect(f"etcd://{endpoint}/{prefix}a%2Fb/") as client,
        coord.connect(endpoint) as plain,
    ):
        await client.put("k", "x")
        assert await plain.get(prefix + "a/b/k") is not None


def test_given_once() -> None:
    with pytest.raises(coord.InvalidArgument, match="give it once"):
        coord.connect("etcd://h/a/", namespace="b/")
    with pytest.raises(coord.InvalidArgument, match="namespace must be str or bytes"):
        coord.connect("h:1", namespace=3)  # type: ignore[arg-type]


def test_from_threads(endpoint: str, prefix: str) -> None:
    with (
        coord.sync.connect(endpoint, namespace=prefix) as client,
        coord.sync.connect(endpoint) as plain,
    ):
        client.put("k", "x")
        assert plain.get(prefix + "k") is not None
        found = client.get_prefix("").items
        assert [kv.key for kv in found] == [b"k"]


async def test_a_forked_child_stays_in_the_namespace(endpoint: str, prefix: str) -> None:
    async with coord.connect(endpoint, namespace=prefix) as client:
        await client.put("k", "x")
        async with client.after_fork() as again:
            assert await again.get("k") is not None


async def test_caches_and_batches(client_pair: Pair) -> None:
    client, plain, space = client_pair
    await client.put("jobs/1", "a")
    async with client.cache(prefix="jobs/") as cache:
        assert cache.snapshot().get("jobs/1") == b"a"
        async with client.batch() as batch:
            written = batch.put("jobs/2", "b")
            batch.delete("jobs/1")
        await plain.put("jobs/3", "outside")
        await cache.wait_revision(written.result().revision, timeout=10)
        assert dict(cache.snapshot().items()) == {b"jobs/2": b"b"}
    stored = await plain.get(space + b"jobs/2")
    assert stored is not None
    assert stored.value == b"b"
