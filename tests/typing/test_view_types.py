"""What a type checker infers from caches, codecs and typed views. Checked by mypy and pyright; nothing runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import assert_type

import coord
import coord.sync
from coord import codec


@dataclass
class Rule:
    limit: int


async def caches(client: coord.Client) -> None:
    async with client.cache(prefix="k") as view:
        assert_type(view, coord.Cache[bytes])
        assert_type(view["k"], bytes)
        assert_type(view.get("k"), bytes | None)
        assert_type(view.entry("k"), coord.Entry[bytes] | None)
        assert_type(view.items("k"), Iterator[tuple[bytes, bytes]])
        assert_type(view.snapshot(), coord.CacheSnapshot[bytes])
        assert_type(await view.sync(), int)
        async for batch in view.changes():
            assert_type(batch, coord.CacheBatch[bytes])
            assert_type(batch.changes[0].old, coord.Entry[bytes] | None)
    assert_type(client.cache(prefix="k", codec=Rule), coord.Cache[Rule])
    assert_type(client.cache(prefix="k", codec=codec.for_type(Rule)), coord.Cache[Rule])
    async with client.cache(key="k", codec=Rule) as node:
        assert_type(node, coord.NodeCache[Rule])
        assert_type(node.value, Rule | None)
    assert_type(client.cache(key="k"), coord.NodeCache[bytes])


async def views(client: coord.Client) -> None:
    rules = client.typed(Rule)
    assert_type(rules, coord.Typed[Rule])
    assert_type(client.typed(codec.structured(Rule)), coord.Typed[Rule])
    assert_type(client.typed(list[int]), coord.Typed[list[int]])
    assert_type(await rules.get("k"), coord.TypedKeyValue[Rule] | None)
    assert_type((await rules.get_prefix("k")).items, tuple[coord.TypedKeyValue[Rule], ...])
    assert_type(await rules.put("k", Rule(1)), coord.PutResult)
    assert_type(await rules.update("k", lambda rule: rule or Rule(0)), coord.TypedKeyValue[Rule])
    async with rules.watch("k") as watch:
        assert_type((await anext(watch)).value, Rule | None)
    assert_type(rules.cache(prefix="k"), coord.Cache[Rule])
    assert_type(rules.cache(key="k"), coord.NodeCache[Rule])


def blocking(client: coord.sync.Client) -> None:
    assert_type(client.cache(prefix="k"), coord.sync.Cache[bytes])
    assert_type(client.cache(prefix="k", codec=Rule), coord.sync.Cache[Rule])
    assert_type(client.cache(key="k", codec=Rule).value, Rule | None)
    rules = client.typed(Rule)
    assert_type(rules, coord.sync.Typed[Rule])
    assert_type(rules.get("k"), coord.TypedKeyValue[Rule] | None)
    assert_type(rules.watch("k").read().value, Rule | None)
    assert_type(rules.cache(key="k").value, Rule | None)
