"""What a describer is shown, and what it tells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.coordination import Coordination
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The key ``name`` itself, the first of those below it, and how many these are, as of one revision."""

    home: Coordination
    name: bytes
    own: KeyValue | None
    first: tuple[KeyValue, ...]
    count: int
    timeout: float

    @property
    def prefix(self) -> bytes:
        """What the keys below begin with."""
        return self.name + b"/"

    def leaf(self, kv: KeyValue) -> bytes:
        """Return a key without the prefix."""
        return kv.key[len(self.prefix) :]

    def has_only(self, *folders: bytes) -> bool:
        """Whether there are keys below, and all that are shown stand in these folders, or are these keys."""
        return bool(self.first) and all(
            any(
                leaf.startswith(folder) if folder.endswith(b"/") else leaf == folder
                for folder in folders
            )
            for leaf in map(self.leaf, self.first)
        )

    async def read(self, *reads: Op) -> TxnResult:
        """Read all of this as of one revision."""
        return await self.home.txn.run((), reads, timeout=self.timeout)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """One who holds, waits, or is there: the key, what it does, and what the value says of its owner."""

    kv: KeyValue
    role: str = ""
    metadata: Mapping[str, object] = field(default_factory=dict[str, object])


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """What was found: those who hold or are there, those who wait, and what else there is to say."""

    holders: tuple[Seat, ...] = ()
    waiters: tuple[Seat, ...] = ()
    facts: tuple[str, ...] = ()


class Describer(ABC):
    """Knows one layout."""

    layout: str
    """What it is called."""

    @abstractmethod
    def fits(self, scene: Scene) -> bool:
        """Whether these are keys of this layout."""

    @abstractmethod
    async def describe(self, scene: Scene) -> Described:
        """Read what is needed. Raises what reads raise."""


def several(n: float, noun: str) -> str:
    """Return a number and its noun."""
    return f"{n:g} {noun}" if n == 1 else f"{n:g} {noun}s"
