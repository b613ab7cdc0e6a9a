"""Ranges of any size: whole, in order, of one revision, whatever happens between two pages."""

from __future__ import annotations

import pytest

import coord
import coord.sync
from coord import op
from coord.core import Carrier
from tests.sdk.conftest import CARRIERS
from tests.support.proxy import Proxy

MANY = 250


async def fill(client: coord.Client, prefix: str, count: int = MANY) -> list[bytes]:
    keys = [f"{prefix}{n:04}" for n in range(count)]
    for first in range(0, count, 100):
        await client.txn().then(*[op.put(k, k[-4:]) for k in keys[first : first + 100]]).commit()
    return [key.encode() for key in keys]


@pytest.mark.parametrize("page_size", [1, 7, 125, 249, 250, 251])
async def test_pages_are_the_range(endpoint: str, prefix: str, page_size: int) -> None:
    async with coord.connect(endpoint) as client:
        keys = await fill(client, prefix)
        whole = await client.get_prefix(prefix)
        pages = [page async for page in client.pages(prefix, page_size=page_size)]
        assert [kv for page in pages for kv in page.items] == list(whole.items)
        assert [len(p.items) for p in pages[:-1]] == [page_size] * (len(pages) - 1)
        assert [p.more for p in pages] == [True] * (len(pages) - 1) + [False]
        assert [p.count for p in pages] == list(range(MANY, 0, -page_size))
        assert {p.revision for p in pages} == {whole.revision}
        assert [kv.key async for kv in client.iterate(prefix, page_size=page_size)] == keys


async def test_what_is_written_meanwhile_is_not_seen(client: coord.Client, prefix: str) -> None:
    keys = await fill(client, prefix, 10)
    pages = client.pages(prefix, page_size=4)
    first = await anext(pages)
    await client.put(keys[5], "changed")
    await client.delete(keys[6])
    await client.put(f"{prefix}0004a", "new")
    rest = [page async for page in pages]
    told = [kv for page in (first, *rest) for kv in page.items]
    assert [(kv.key, kv.value) for kv in told] == [(key, key[-4:]) for key in keys]
    assert {page.revision for page in rest} == {first.revision}
    # A watch continues exactly where the pages end.
    async with client.watch(prefix, prefix=True, start_revision=first.revision + 1) as watch:
        changes = [(await anext(watch)).value for _ in range(3)]
    assert changes == [b"changed", b"", b"new"]


async def test_forms_of_range(client: coord.Client, prefix: str) -> None:
    keys = await fill(client, prefix, 5)
    bounded = client.iterate(start=keys[1], end=keys[3], page_size=1)
    assert [kv.key async for kv in bounded] == keys[1:3]
    named = client.iterate(prefix=prefix, page_size=2, keys_only=True)
    assert [(kv.key, kv.value) async for kv in named] == [(key, b"") for key in keys]
    open_ended = [kv.key async for kv in client.iterate(start=keys[4], end=b"\0")]
    assert open_ended[0] == keys[4]
    everything = [kv.key async for kv in client.iterate(page_size=3)]
    assert everything == sorted(everything)
    assert set(everything) >= set(keys)
    empty = [page async for page in client.pages(prefix + "none/")]
    assert [(page.items, page.count, page.more) for page in empty] == [((), 0, False)]
    past = await client.put(keys[0], "later")
    before = client.iterate(prefix, page_size=2, revision=past.revision - 1)
    assert [kv.value async for kv in before] == [key[-4:] for key in keys]


async def test_wrong_arguments(client: coord.Client) -> None:
    for make in (client.pages, client.iterate):
        with pytest.raises(coord.InvalidArgument, match="either a prefix"):
            make("a", start="a", end="b")
        with pytest.raises(coord.InvalidArgument, match="start and end together"):
            make(start="a")
        with pytest.raises(coord.InvalidArgument, match="end must not be empty"):
            make(start="a", end="")
        with pytest.raises(coord.InvalidArgument, match="page_size must be at least 1"):
            make("a", page_size=0)
        with pytest.raises(coord.InvalidArgument, match="revision must be None"):
            make("a", revision=0)


async def test_a_compacted_revision_says_what_to_do(client: coord.Client, prefix: str) -> None:
    keys = await fill(client, prefix, 10)
    pages = client.pages(prefix, page_size=4)
    first = await anext(pages)
    later = await client.put(keys[0], "later")
    await client.compact(later.revision)
    with pytest.raises(
        coord.Compacted, match=f"revision {first.revision}, .*begin again with new pages"
    ):
        await anext(pages)
    assert len([kv async for kv in client.iterate(prefix, page_size=4)]) == 10


@pytest.mark.parametrize("transport", CARRIERS)
async def test_lost_connections_lose_no_page(
    endpoint: str, transport: Carrier, prefix: str
) -> None:
    async with (
        coord.connect(endpoint) as direct,
        Proxy(endpoint) as proxy,
        coord.connect(proxy.endpoint, transport=transport) as client,
    ):
        keys = await fill(direct, prefix, 40)
        seen: list[bytes] = []
        async for page in client.pages(prefix, page_size=5):
            seen += [kv.key for kv in page.items]
            proxy.cut()
        assert seen == keys


async def test_pages_keep_their_place_after_an_error(endpoint: str, prefix: str) -> None:
    async with Proxy(endpoint) as proxy, coord.connect(proxy.endpoint) as client:
        keys = await fill(client, prefix, 10)
        pairs = client.iterate(prefix, page_size=5, timeout=0.2)
        seen = [(await anext(pairs)).key for _ in range(5)]
        await proxy.refuse()
        proxy.cut()
        with pytest.raises(coord.Unavailable):
            await anext(pairs)
        await proxy.accept()
        while len(seen) < 10:
            try:
                seen.append((await anext(pairs)).key)
            except coord.Unavailable:  # the client has not come back yet
                continue
        assert seen == keys


def test_from_threads(endpoint: str, prefix: str) -> None:
    with coord.sync.connect(endpoint) as client:
        for number in range(7):
            client.put(f"{prefix}{number}", "x")
        pages = list(client.pages(prefix, page_size=3))
        assert [len(page.items) for page in pages] == [3, 3, 1]
        with client.iterate(prefix, page_size=3) as pairs:
            assert next(pairs).key == (prefix + "0").encode()
        assert [kv.key for kv in client.iterate(prefix, page_size=2)] == [
            f"{prefix}{number}".encode() for number in range(7)
        ]


async def test_in_a_namespace(endpoint: str, prefix: str) -> None:
    async with coord.connect(endpoint, namespace=prefix) as client:
        keys = await fill(client, "", 9)
        assert [kv.key async for kv in client.iterate(page_size=2)] == keys
