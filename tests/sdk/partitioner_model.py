"""What a partitioner may do: an executable model, fed with every change of its keys in the order of the store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field

import coord
from coord.recipes.partitioner.assignment import assign, capacity


@dataclass(slots=True)
class Model:
    """The weights of the members, the owner of each partition, and every grant there was."""

    name: str
    members: dict[str, int] = field(default_factory=dict[str, int])
    owners: dict[str, tuple[str, int, int]] = field(default_factory=dict[str, tuple[str, int, int]])
    highest: dict[str, int] = field(default_factory=dict[str, int])
    grants: list[tuple[str, str, int]] = field(default_factory=list[tuple[str, str, int]])

    def change(self, event: coord.WatchEvent) -> None:
        """Take in one change, and refuse what must not happen."""
        kv = event.kv
        kind, _, ident = kv.key.decode().removeprefix(self.name + "/").partition("/")
        gone = event.type is coord.EventType.DELETE
        if kind == "members":
            self.members.pop(ident, None)
            if not gone:
                self.members[ident] = json.loads(kv.value)["data"]["weight"]
        elif gone:
            del self.owners[ident]
        else:
            assert ident not in self.owners, f"{ident} has an owner"
            assert kv.version == 1, "an owner's key is created, never changed"
            assert kv.create_revision > self.highest.get(ident, 0), "tokens rise"
            assert kv.lease, "an owner's key is leased"
            self.highest[ident] = kv.create_revision
            owner: str = json.loads(kv.value)["owner"]
            self.owners[ident] = (owner, kv.create_revision, kv.lease)
            self.grants.append((ident, owner, kv.create_revision))

    def at_rest(self, partitions: Iterable[str]) -> None:
        """Nothing more will happen: everything has the owner that it should have."""
        found = {p: owner for p, (owner, _, _) in self.owners.items()}
        listed = list(partitions)
        assert found == assign(listed, self.members)
        for member, weight in self.members.items():
            most = capacity(len(listed), weight, sum(self.members.values()))
            assert sum([owner == member for owner in found.values()]) <= most


@contextlib.asynccontextmanager
async def judged(client: coord.Client, name: str) -> AsyncGenerator[Model]:
    """Judge everything that happens in the block, at its end, when everybody has left; from the store's history."""
    start = (await client.put(name + "-mark", "begin")).revision
    model = Model(name)
    yield model
    mark = await client.put(name + "-mark", "end")
    async with client.watch(name, prefix=True, start_revision=start + 1) as changes:
        async for event in changes:
            if event.kv.mod_revision == mark.revision:
                break
            model.change(event)
    assert model.owners == {}, "nothing is left behind"
    assert model.members == {}


def exclusive(partitioners: Iterable[coord.Partitioner]) -> None:
    """Check that no partition is believed to be owned by two, by what each of them knows right now."""
    seen: dict[str, int] = {}
    for each in partitioners:
        for partition, own in each.owned().items():
            assert own.valid_for() > 0
            assert partition not in seen, f"{partition} has two owners"
            seen[partition] = own.token
