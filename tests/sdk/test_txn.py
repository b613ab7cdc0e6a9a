"""Transactions: every comparison, nesting, and the builder's rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

import coord
from coord import compare, op
from coord.store.comparing import Compare


async def test_branches(client: coord.Client, prefix: str) -> None:
    key = prefix + "k"
    create = (
        client.txn()
        .when(compare.create_revision(key) == 0)
        .then(op.put(key, "first"))
        .otherwise(op.get(key))
    )
    won = await create.commit()
    assert won.succeeded
    assert won.responses == (coord.PutResult(revision=won.revision),)
    lost = await create.commit()
    assert not lost.succeeded
    assert [kv.value for kv in lost.range(0).items] == [b"first"]
    assert lost.revision == won.revision


async def test_without_comparisons_then_runs(client: coord.Client, prefix: str) -> None:
    done = await client.txn().then(op.put(prefix, "x")).commit()
    assert done.succeeded


async def test_an_empty_transaction(client: coord.Client) -> None:
    done = await client.txn().commit()
    assert (done.succeeded, done.responses) == (True, ())


async def test_all_comparisons_must_hold(client: coord.Client, prefix: str) -> None:
    await client.put(prefix, "x")
    result = (
        await client.txn().when(compare.version(prefix) == 1, compare.value(prefix) == "y").commit()
    )
    assert not result.succeeded


async def holds(client: coord.Client, *comparisons: Compare) -> bool:
    return (await client.txn().when(*comparisons).commit()).succeeded


async def test_every_comparison(client: coord.Client, prefix: str) -> None:
    lease = await client.lease_grant(60)
    key = prefix + "k"
    created = (await client.put(key, "b")).revision
    changed = (await client.put(key, "b", lease=lease.id)).revision
    facts: list[tuple[str, int | bytes]] = [
        ("version", 2),
        ("create_revision", created),
        ("mod_revision", changed),
        ("lease", lease.id),
    ]
    for name, value in facts:
        assert isinstance(value, int)
        left = getattr(compare, name)(key)
        assert await holds(client, left == value)
        assert not await holds(client, left == value + 1)
        assert await holds(client, left != value + 1)
        assert not await holds(client, left != value)
        assert await holds(client, left < value + 1)
        assert not await holds(client, left < value)
        assert await holds(client, left > value - 1)
        assert not await holds(client, left > value)
    value_of = compare.value(key)
    assert await holds(client, value_of == "b")
    assert await holds(client, value_of != b"c")
    assert await holds(client, value_of < "c")
    assert await holds(client, value_of > "a")
    assert not await holds(client, value_of > "b")
    await client.lease_revoke(lease.id)


async def test_a_missing_key_compares_as_zeros_and_has_no_value(
    client: coord.Client, prefix: str
) -> None:
    key = prefix + "missing"
    assert await holds(
        client,
        compare.version(key) == 0,
        compare.create_revision(key) == 0,
        compare.mod_revision(key) == 0,
        compare.lease(key) == 0,
    )
    assert not await holds(client, compare.value(key) == "")
    assert not await holds(client, compare.value(key) != "x")


async def test_comparisons_over_ranges(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", "x")
    await client.put(prefix + "b", "x")
    assert await holds(client, compare.value(prefix, prefix=True) == "x")
    await client.put(prefix + "c", "y")
    assert not await holds(client, compare.value(prefix, prefix=True) == "x")
    assert await holds(client, compare.value(prefix + "a", end=prefix + "c") == "x")


async def test_operations_answer_in_order(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "old", "1")
    result = await (
        client.txn()
        .then(
            op.put(prefix + "a", "1", prev_kv=True),
            op.get(prefix + "a"),
            op.delete(prefix + "old", prev_kv=True),
            op.get_prefix(prefix, limit=1, keys_only=True),
            op.get_range(prefix + "a", prefix + "b", count_only=True),
            op.delete_prefix(prefix + "none"),
            op.delete_range(prefix + "x", prefix + "y"),
        )
        .commit()
    )
    put, got, deleted, listed, counted, none, nothing = result.responses
    assert isinstance(put, coord.PutResult)
    assert isinstance(got, coord.RangeResult)
    assert [kv.value for kv in got.items] == [b"1"]  # sees the put before it
    assert isinstance(deleted, coord.DeleteResult)
    assert [kv.value for kv in deleted.previous] == [b"1"]
    assert isinstance(listed, coord.RangeResult)
    assert [(kv.key, kv.value) for kv in listed.items] == [((prefix + "a").encode(), b"")]
    assert isinstance(counted, coord.RangeResult)
    assert counted.count == 1
    assert isinstance(none, coord.DeleteResult)
    assert isinstance(nothing, coord.DeleteResult)
    assert (none.deleted, nothing.deleted) == (0, 0)
    found = await client.get(prefix + "a")
    assert found is not None
    assert found.mod_revision == result.revision
    with pytest.raises(coord.InvalidArgument, match="not a read but gave PutResult"):
        result.range(0)


async def test_nested_transactions(client: coord.Client, prefix: str) -> None:
    key = prefix + "k"
    result = await (
        client.txn()
        .then(
            op.txn(
                (compare.version(key) == 0,),
                (op.put(key, "inner"), op.txn((), (op.get(key),))),
                (op.get(key),),
            ),
            op.put(prefix + "other", "x"),
        )
        .commit()
    )
    inner = result.responses[0]
    assert isinstance(inner, coord.TxnResult)
    assert inner.succeeded
    innermost = inner.responses[1]
    assert isinstance(innermost, coord.TxnResult)
    assert [kv.value for kv in innermost.range(0).items] == [b"inner"]
    written = await client.get_prefix(prefix)
    assert {kv.mod_revision for kv in written.items} == {result.revision}


async def test_a_key_may_be_put_once(client: coord.Client, prefix: str) -> None:
    with pytest.raises(coord.RequestRefused, match="duplicate key"):
        await client.txn().then(op.put(prefix, "1"), op.put(prefix, "2")).commit()
    assert await client.get(prefix) is None


async def test_too_many_operations(client: coord.Client, prefix: str) -> None:
    with pytest.raises(coord.RequestRefused, match="too many operations"):
        await client.txn().then(*[op.put(f"{prefix}{n}", "x") for n in range(129)]).commit()


Build = Callable[[int], tuple[Sequence[Compare], Sequence[coord.Op], Sequence[coord.Op]]]


def nested(width: int, depth: int) -> coord.Op:
    """Transactions in each other, each with ``width`` reads beside the next one."""
    reads = tuple([op.get("k")] * width)
    return op.txn((), reads if depth == 1 else (nested(width, depth - 1), *reads[1:]))


GET = op.get("k")
SHAPES: dict[str, Build] = {
    "then": lambda n: ([], [GET] * n, []),
    "otherwise": lambda n: ([], [], [GET] * n),
    "when": lambda n: ([compare.version("k") == 0] * n, [], []),
    "nested": lambda n: ([], [op.txn((), (GET,) * (n - 1))], []),
    "nested otherwise": lambda n: ([], [], [op.txn((), (), (GET,) * (n - 1))]),
    "thrice nested": lambda n: ([], [nested(n // 3, 2), *[GET] * (n // 3 - 1)], []),
}


@pytest.mark.parametrize("build", SHAPES.values(), ids=SHAPES)
async def test_our_limit_is_the_servers(endpoint: str, build: Build) -> None:
    async with (
        coord.connect(endpoint) as client,
        coord.connect(endpoint, max_txn_ops=1000) as bold,
    ):
        for width, fits in ((126, True), (129, False)):
            when, then, otherwise = build(width)
            for each, told in ((client, "at most"), (bold, "etcdserver: too many operations")):
                txn = each.txn().when(*when).then(*then).otherwise(*otherwise)
                if fits:
                    await txn.commit()
                else:
                    with pytest.raises(coord.TxnTooLarge, match=told):
                        await txn.commit()


async def test_the_limit_is_asked_before_anything_is_sent() -> None:
    async with coord.connect("127.0.0.1:1", max_txn_ops=2, request_timeout=0.05) as client:
        with pytest.raises(coord.TxnTooLarge, match="3, but at most 2 are allowed"):
            await client.txn().then(*[op.get("k")] * 3).commit()
        with pytest.raises(coord.Unavailable):
            await client.txn().then(*[op.get("k")] * 2).commit()
    with pytest.raises(coord.InvalidArgument, match="max_txn_ops must be at least 1"):
        coord.connect("127.0.0.1:1", max_txn_ops=0)


async def test_exists_and_missing(client: coord.Client, prefix: str) -> None:
    key = prefix + "k"
    assert await holds(client, compare.missing(key), compare.missing(prefix, prefix=True))
    assert not await holds(client, compare.exists(key))
    assert not await holds(client, compare.exists(prefix, prefix=True))
    await client.put(key, "")
    assert await holds(client, compare.exists(key), compare.exists(prefix, prefix=True))
    assert await holds(client, compare.exists(prefix, end=prefix + "z"))
    assert not await holds(client, compare.missing(key))
    assert not await holds(client, compare.missing(prefix, prefix=True))


async def test_comparisons_that_etcd_does_not_have(client: coord.Client, prefix: str) -> None:
    key = prefix + "k"
    await client.put(key, b"b")
    for version, at_most, at_least in ((0, False, True), (1, True, True), (2, True, False)):
        assert await holds(client, compare.version(key) <= version) == at_most
        assert await holds(client, compare.version(key) >= version) == at_least
    for value, at_most in ((b"a\xff", False), (b"b", True), (b"b\0", True), (b"", False)):
        assert await holds(client, compare.value(key) <= value) == at_most
    with pytest.raises(coord.InvalidArgument, match="cannot be compared with >="):
        assert compare.value(key) >= b"b"
    for number in (2**63, -(2**63) - 1):
        with pytest.raises(coord.InvalidArgument, match="a number of 64 bits"):
            _ = compare.version(key) == number
    assert await holds(client, compare.version(key) < 2**63 - 1)


async def test_puts_that_keep_value_or_lease(client: coord.Client, prefix: str) -> None:
    key = prefix + "k"
    lease = await client.lease_grant(60)
    with pytest.raises(coord.KeyNotFound):
        await client.put(key, "", ignore_value=True)
    with pytest.raises(coord.KeyNotFound):
        await client.txn().then(op.put(key, "x", ignore_lease=True)).commit()
    await client.put(key, "1", lease=lease.id)

    async def state() -> tuple[bytes, int, int]:
        found = await client.get(key)
        assert found is not None
        return found.value, found.lease, found.version

    before = await client.put(key, "2", ignore_lease=True, prev_kv=True)
    assert before.previous is not None
    assert before.previous.value == b"1"
    assert await state() == (b"2", lease.id, 2)
    await client.put(key, "", ignore_value=True, ignore_lease=True)
    assert await state() == (b"2", lease.id, 3)
    await client.txn().then(op.put(key, "", ignore_value=True)).commit()
    assert await state() == (b"2", 0, 4)
    await client.txn().then(op.put(key, "", ignore_value=True, lease=lease.id)).commit()
    await client.txn().then(op.put(key, "3", ignore_lease=True)).commit()
    assert await state() == (b"3", lease.id, 6)
    await client.lease_revoke(lease.id)


async def test_what_is_kept_cannot_be_given() -> None:
    with pytest.raises(coord.InvalidArgument, match="give an empty one"):
        op.put("k", "v", ignore_value=True)
    with pytest.raises(coord.InvalidArgument, match="give none"):
        op.put("k", "v", lease=1, ignore_lease=True)
    async with coord.connect("127.0.0.1:1") as client:
        with pytest.raises(coord.InvalidArgument, match="give an empty one"):
            await client.put("k", "v", ignore_value=True)


async def test_options_of_reads(client: coord.Client, prefix: str) -> None:
    first = await client.put(prefix + "a", "1")
    second = await client.put(prefix + "b", "2")
    await client.put(prefix + "a", "3")

    async def read(each: coord.Op) -> list[bytes]:
        items = (await client.txn().then(each).commit()).range(0).items
        return [kv.key.removeprefix(prefix.encode()) + kv.value for kv in items]

    assert await read(op.get(prefix + "a", revision=first.revision)) == [b"a1"]
    assert await read(op.get(prefix + "a", keys_only=True)) == [b"a"]
    assert await read(op.get(prefix + "a", serializable=True)) == [b"a3"]
    assert await read(op.get_prefix(prefix, revision=second.revision)) == [b"a1", b"b2"]
    assert await read(op.get_prefix(prefix, serializable=True)) == [b"a3", b"b2"]
    assert await read(op.get_prefix(prefix, min_mod_revision=second.revision + 1)) == [b"a3"]
    assert await read(op.get_prefix(prefix, max_mod_revision=second.revision)) == [b"b2"]
    assert await read(op.get_prefix(prefix, min_create_revision=second.revision)) == [b"b2"]
    assert await read(op.get_range(prefix, prefix + "b", max_create_revision=first.revision)) == [
        b"a3"
    ]


def test_the_builder_keeps_its_order() -> None:
    client_txn = coord.Txn
    runner = None
    with pytest.raises(coord.InvalidArgument, match="when\\(\\) comes once"):
        client_txn(runner).when().when()  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="when\\(\\) comes once"):
        client_txn(runner).then().when()  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="then\\(\\) comes once"):
        client_txn(runner).otherwise().then()  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="otherwise\\(\\) comes once"):
        client_txn(runner).otherwise().otherwise()  # type: ignore[arg-type]


def test_the_builder_takes_only_what_it_knows() -> None:
    builder = coord.Txn(None)  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="takes comparisons such as"):
        builder.when(True)  # type: ignore[arg-type]
    with pytest.raises(coord.InvalidArgument, match="takes operations such as"):
        builder.then(compare.version("k") == 0)  # type: ignore[arg-type]


def test_comparisons_refuse_what_cannot_be_meant() -> None:
    with pytest.raises(coord.InvalidArgument, match="no truth value"):
        assert compare.version("k") == 0
    with pytest.raises(coord.InvalidArgument, match="compares with an int, not str"):
        _ = compare.version("k") == "0"
    with pytest.raises(coord.InvalidArgument, match="compared value must be str or bytes"):
        _ = compare.value("k") == 1
    with pytest.raises(coord.InvalidArgument, match="either end or prefix"):
        compare.version("k", end="z", prefix=True)
    with pytest.raises(coord.InvalidArgument, match="key must not be empty"):
        compare.version("")
