"""What a semaphore may do: an executable model, fed with every change of its keys in the order of the store."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import coord


@dataclass(slots=True)
class Model:
    """The entries by their creation, and the limit; ``most`` is the highest sum of granted permits there was."""

    name: str
    limit: int = 0
    entries: dict[bytes, tuple[int, int, str]] = field(
        default_factory=dict[bytes, tuple[int, int, str]]
    )
    order: list[int] = field(default_factory=list[int])
    most: int = 0

    def change(self, event: coord.WatchEvent) -> None:
        """Take in one change, and refuse what must not happen."""
        key, kv = event.kv.key, event.kv
        if key == f"{self.name}/limit".encode():
            self.limit = int(kv.value) if event.type is coord.EventType.PUT else 0
        elif event.type is coord.EventType.DELETE:
            self.entries.pop(key)
        else:
            said = json.loads(kv.value)
            before = self.entries.get(key, (kv.create_revision, said["permits"], "none"))
            assert before[:2] == (kv.create_revision, said["permits"]), "an entry keeps its permits"
            assert (before[2], said["state"]) != ("granted", "waiting"), "a grant is final"
            self.entries[key] = (kv.create_revision, said["permits"], said["state"])
            if said["state"] == "granted" and before[2] != "granted":
                self._grant(kv.create_revision)

    def _grant(self, token: int) -> None:
        ahead = [entry for entry in self.entries.values() if entry[0] < token]
        assert all(state == "granted" for _, _, state in ahead), "first come, first served"
        used = sum([permits for _, permits, state in self.entries.values() if state == "granted"])
        assert used <= self.limit, f"{used} permits of {self.limit}"
        self.most = max(self.most, used)
        self.order.append(token)

    def at_rest(self) -> None:
        """Nothing more will happen: whoever is first in line must not fit."""
        assert self.order == sorted(self.order)
        used = sum([permits for _, permits, state in self.entries.values() if state == "granted"])
        waiting = sorted([entry for entry in self.entries.values() if entry[2] == "waiting"])
        assert not waiting or used + waiting[0][1] > self.limit, "nobody is forgotten"


@contextlib.asynccontextmanager
async def judged(client: coord.Client, name: str) -> AsyncGenerator[Model]:
    """Judge everything that happens to the semaphore in the block, at its end."""
    model = Model(name)
    async with client.watch(name + "/", prefix=True) as changes:
        yield model
        mark = await client.put(name + "/mark", "")
        async for event in changes:
            if event.kv.key.endswith(b"/mark") and event.kv.mod_revision == mark.revision:
                break
            model.change(event)
    model.at_rest()
