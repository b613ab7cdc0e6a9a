"""Generated sequences of member operations that a cluster of one started member survives.

Ids are slots: 0 is the started member, n the n-th member that a script has tried to add. The quorum stays:
no voter is ever really added (another's URL or a broken one is asked for), and the only voter is not
removed unless the strict check refuses it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# A slot for an id that nobody ever had.
STRANGER = -1
OWN = "OWN"
_BROKEN = ["", "127.0.0.1:41", "ftp://127.0.0.1:41", "http://127.0.0.1", "http://127.0.0.1:41/x"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """One call. ``OWN`` among the URLs is the first that the started member has then."""

    name: str
    slot: int = 0
    urls: tuple[str, ...] = ()
    learner: bool = False
    linearizable: bool = False


class Script:
    """The calls of one seed, in order."""

    def __init__(self, seed: int, *, strict: bool, length: int = 8) -> None:
        self._random = random.Random(seed)
        self._strict = strict
        self._seed = seed
        self._added = 0
        # Of this script alone, and no set of them twice: an id is made of URLs and second, so the same
        # set within a second would be an id that is taken, and who meets that depends on the time.
        self._urls = [f"http://127.0.0.1:{2000 + 8 * seed + number}" for number in range(4)]
        self._removed: set[int] = set()
        self._asked: set[tuple[str, ...]] = set()
        makers = [self._add] * 4 + [self._remove, self._update, self._promote] * 2 + [self._list]
        self.acts = [self._random.choice(makers)() for _ in range(length)]

    def _add(self) -> Act:
        draw = self._random
        self._added += 1
        fresh = f"http://127.0.0.1:{10_000 + 10 * self._seed + self._added}"
        urls = sorted(draw.sample(self._urls, draw.choice((1, 1, 1, 2))))
        kind = draw.random()
        if kind < 0.2:
            urls = [*urls, draw.choice(_BROKEN)] if draw.random() < 0.5 else []
        elif kind < 0.45:
            urls = [fresh, OWN]
        else:
            if tuple(urls) in self._asked:
                urls.append(fresh)
            self._asked.add(tuple(urls))
            return Act(name="add", slot=self._added, urls=tuple(urls), learner=True)
        return Act(name="add", slot=self._added, urls=tuple(urls), learner=draw.random() < 0.5)

    def _slot(self, *, own: bool) -> int:
        slots: list[int] = [*range(1, self._added + 1), *range(1, self._added + 1), STRANGER]
        if own:
            slots.append(0)
        return self._random.choice(slots)

    def _remove(self) -> Act:
        slot = self._slot(own=self._strict)
        if slot > 0:
            self._removed.add(slot)
        return Act(name="remove", slot=slot)

    def _update(self) -> Act:
        urls = self._random.sample([*self._urls, OWN], self._random.choice((1, 1, 2)))
        # Not of a learner: etcd 3.5.1 makes it a voter in its list, and then waits for it.
        slots = [0, 0, STRANGER, *sorted(self._removed)]
        return Act(name="update", slot=self._random.choice(slots), urls=tuple(urls))

    def _promote(self) -> Act:
        return Act(name="promote", slot=self._slot(own=True))

    def _list(self) -> Act:
        return Act(name="list", linearizable=self._random.random() < 0.5)
