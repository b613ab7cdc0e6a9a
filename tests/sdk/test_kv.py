"""Keys and values, on every store and carrier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import coord
from coord import SortBy


async def test_put_and_get(client: coord.Client, prefix: str) -> None:
    key = prefix + "a"
    assert await client.get(key) is None
    first = await client.put(key, "1")
    second = await client.put(key, b"2", prev_kv=True)
    assert second.revision == first.revision + 1
    assert second.previous is not None
    assert second.previous.value == b"1"
    assert await client.get(key) == coord.KeyValue(
        key=key.encode(),
        value=b"2",
        create_revision=first.revision,
        mod_revision=second.revision,
        version=2,
        lease=0,
    )
    assert first.previous is None


async def test_a_first_put_has_no_previous_pair(client: coord.Client, prefix: str) -> None:
    assert (await client.put(prefix, "x", prev_kv=True)).previous is None


async def test_values_are_bytes_of_any_kind_and_size(client: coord.Client, prefix: str) -> None:
    for number, value in enumerate([b"", b"\0", bytes(range(256)), b"x" * 1_000_000]):
        await client.put(prefix + str(number), value)
        found = await client.get(prefix + str(number))
        assert found is not None
        assert found.value == value


async def test_reads_of_the_past(client: coord.Client, prefix: str) -> None:
    old = await client.put(prefix, "old")
    await client.put(prefix, "new")
    await client.delete(prefix)
    assert await client.get(prefix) is None
    past = await client.get(prefix, revision=old.revision)
    assert past is not None
    assert past.value == b"old"
    serializable = await client.get(prefix, revision=old.revision, serializable=True)
    assert serializable == past


async def test_serializable_reads(client: coord.Client, prefix: str) -> None:
    await client.put(prefix, "x")
    found = await client.get(prefix, serializable=True)
    assert found is not None
    assert found.value == b"x"


async def test_delete(client: coord.Client, prefix: str) -> None:
    await client.put(prefix + "a", "1")
    await client.put(prefix + "b", "2")
    gone = await client.delete(prefix + "a", prev_kv=True)
    assert (gone.deleted, [kv.value for kv in gone.previous]) == (1, [b"1"])
    none = await client.delete(prefix + "a")
    assert (none.deleted, none.previous, none.revision) == (0, (), gone.revision)
    rest = await client.delete_prefix(prefix, prev_kv=True)
    assert (rest.deleted, [kv.key for kv in rest.previous]) == (1, [(prefix + "b").encode()])


async def test_delete_range_is_half_open(client: coord.Client, prefix: str) -> None:
    for name in "abc":
        await client.put(prefix + name, name)
    assert (await client.delete_range(prefix + "a", prefix + "c")).deleted == 2
    assert [kv.value for kv in (await client.get_prefix(prefix)).items] == [b"c"]


async def filled(client: coord.Client, prefix: str) -> list[int]:
    """Keys a, b, c with different orders by key, value, version, creation and change; their revisions."""
    revisions = [(await client.put(prefix + name, value)).revision for name, value in
                 (("b", "3"), ("a", "2"), ("c", "1"))]  # fmt: skip
    revisions.append((await client.put(prefix + "b", "0")).revision)
    return revisions


@pytest.mark.parametrize(
    ("sort_by", "expected"),
    [
        (SortBy.KEY, "abc"),
        (SortBy.VALUE, "bca"),
        (SortBy.CREATE_REVISION, "bac"),
        (SortBy.MOD_REVISION, "acb"),
    ],
)
async def test_order(client: coord.Client, prefix: str, sort_by: SortBy, expected: str) -> None:
    await filled(client, prefix)
    up = await client.get_prefix(prefix, sort_by=sort_by)
    down = await client.get_prefix(prefix, sort_by=sort_by, descending=True)
    assert "".join([kv.key.decode()[-1] for kv in up.items]) == expected
    assert [kv.key for kv in down.items] == [kv.key for kv in reversed(up.items)]


async def test_order_by_version(client: coord.Client, prefix: str) -> None:
    await filled(client, prefix)
    found = await client.get_prefix(prefix, sort_by=SortBy.VERSION, descending=True, limit=1)
    assert [kv.version for kv in found.items] == [2]


async def test_limit_tells_what_it_cut_off(client: coord.Client, prefix: str) -> None:
    await filled(client, prefix)
    some = await client.get_prefix(prefix, limit=2)
    assert (len(some.items), some.count, some.more) == (2, 3, True)
    everything = await client.get_prefix(prefix, limit=3)
    assert (len(everything.items), everything.count, everything.more) == (3, 3, False)


async def test_keys_only_and_count_only(client: coord.Client, prefix: str) -> None:
    await filled(client, prefix)
    keys = await client.get_prefix(prefix, keys_only=True)
    assert {kv.value for kv in keys.items} == {b""}
    assert {kv.version for kv in keys.items} == {1, 2}
    count = await client.get_prefix(prefix, count_only=True)
    assert (count.items, count.count) == ((), 3)
    assert await client.count(prefix) == 3


async def test_bounds_on_revisions(client: coord.Client, prefix: str) -> None:
    b_created, a_created, c_created, b_changed = await filled(client, prefix)

    def names(result: coord.RangeResult) -> str:
        return "".join([kv.key.decode()[-1] for kv in result.items])

    assert names(await client.get_prefix(prefix, min_mod_revision=c_created)) == "bc"
    assert names(await client.get_prefix(prefix, max_mod_revision=c_created)) == "ac"
    assert names(await client.get_prefix(prefix, min_create_revision=a_created)) == "ac"
    assert names(await client.get_prefix(prefix, max_create_revision=b_created)) == "b"
    assert names(await client.get_prefix(prefix, revision=b_changed - 1, max_mod_revision=b_created)) == "b"  # fmt: skip


async def test_range_ends(client: coord.Client, prefix: str) -> None:
    await filled(client, prefix)
    some = await client.get_range(prefix + "a", prefix + "c")
    assert [kv.key.decode()[-1] for kv in some.items] == ["a", "b"]
    from_b = await client.get_range(prefix + "b", b"\0", limit=2)
    assert [kv.key.decode()[-1] for kv in from_b.items] == ["b", "c"]
    assert (await client.get_range(prefix + "x", prefix + "z")).items == ()


async def test_an_empty_prefix_is_everything(client: coord.Client, prefix: str) -> None:
    await client.put(prefix, "x")
    whole = await client.get_prefix("", count_only=True)
    assert whole.count >= 1
    assert whole.count == await client.count("")


async def test_compaction(client: coord.Client, prefix: str) -> None:
    old = (await client.put(prefix, "1")).revision
    new = (await client.put(prefix, "2")).revision
    await client.compact(new)
    with pytest.raises(coord.Compacted) as caught:
        await client.get(prefix, revision=old)
    assert isinstance(caught.value, coord.RequestRefused)
    with pytest.raises(coord.Compacted):
        await client.compact(new)
    with pytest.raises(coord.FutureRevision):
        await client.compact(new + 1_000)
    with pytest.raises(coord.FutureRevision):
        await client.get(prefix, revision=new + 1_000)


async def test_members_and_status(client: coord.Client, prefix: str) -> None:
    put = await client.put(prefix, "x")
    members = {member.member_id: member for member in await client.members()}
    status = await client.status()
    assert status.leader in members
    assert status.version.startswith("3.")
    assert status.revision >= put.revision
    assert not members[status.member_id].is_learner


WRONG: list[tuple[Callable[[Any], Any], str]] = [
    (lambda c: c.put("", "x"), "key must not be empty"),
    (lambda c: c.put("k", 1), "value must be str or bytes, not int"),
    (lambda c: c.get(None), "key must be str or bytes, not NoneType"),
    (lambda c: c.get("k", revision=0), "revision must be None"),
    (lambda c: c.get_prefix("k", limit=-1), "limit must be 0"),
    (lambda c: c.get_range("", "x"), "key must not be empty"),
]


@pytest.mark.parametrize(
    ("call", "words"), WRONG, ids=["put", "value", "key", "revision", "limit", "range"]
)
async def test_wrong_arguments_are_named(call: Callable[[Any], Any], words: str) -> None:
    async with coord.connect("127.0.0.1:1") as client:  # nothing listens: nothing may be sent
        with pytest.raises(coord.InvalidArgument, match=words):
            await call(client)
