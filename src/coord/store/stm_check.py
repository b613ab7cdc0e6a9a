"""What an optimistic transaction has learned of the store, and what of it must still be true at its commit."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from coord.store import comparing as compare
from coord.store import operations as op

if TYPE_CHECKING:
    from collections.abc import Iterator

    from coord.errors import LostError
    from coord.store.comparing import Compare
    from coord.store.operations import Op
    from coord.store.txn import TxnResult
    from coord.store.values import KeyValue, RangeResult

Bounds = tuple[bytes, bytes]


class Guarding(Protocol):
    """What :meth:`coord.StmTxn.guard` takes: a :class:`coord.Grant` of any kind."""

    key: bytes
    token: int
    name: str

    @property
    def lost_error(self) -> type[LostError]:
        """The error for its loss."""
        ...

    def check(self) -> None:
        """Raise unless it is held."""
        ...

    def guards(self) -> tuple[Compare, ...]:
        """Return the comparisons that all hold while it is held."""
        ...


@dataclass(slots=True)
class Known:
    """What is known of the store: of keys (None: missing) and ranges, at ``revision`` if they are of one."""

    revision: int = 0
    keys: dict[bytes, KeyValue | None] = field(default_factory=dict[bytes, "KeyValue | None"])
    ranges: dict[Bounds, RangeResult] = field(default_factory=dict[Bounds, "RangeResult"])

    def find(self, key: bytes) -> tuple[bool, KeyValue | None]:
        """Say whether the pair at ``key`` is known, and what it is."""
        found = self.keys.get(key)
        known = found is not None or key in self.keys or any(covers(*b, key) for b in self.ranges)
        return known, found

    def add_range(self, bounds: Bounds, found: RangeResult) -> None:
        """Learn a range, and each pair in it that was not known before."""
        self.ranges[bounds] = found
        for kv in found.items:
            self.keys.setdefault(kv.key, kv)


def covers(start: bytes, end: bytes, key: bytes) -> bool:
    """Say whether ``[start, end)`` has ``key``."""
    return key >= start and (end == b"\0" or key < end)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What must not have changed.

    ``keys`` still have these mod revisions; keys of ``unwritten`` and ``ranges`` have none above these (for a range,
    that sees what was put, while the keys found in it, among ``keys``, see what was deleted); ``grants`` are held.
    """

    keys: dict[bytes, int]
    unwritten: dict[bytes, int]
    ranges: dict[Bounds, int]
    grants: tuple[Guarding, ...]

    @property
    def compares(self) -> tuple[Compare, ...]:
        """The same for ``when()``."""
        return tuple(self._compares())

    def _compares(self) -> Iterator[Compare]:
        for grant in self.grants:
            yield from grant.guards()
        for key, seen in self.keys.items():
            yield compare.mod_revision(key) == seen
        for key, base in self.unwritten.items():
            yield compare.mod_revision(key) < base + 1
        for (start, end), base in self.ranges.items():
            yield compare.mod_revision(start, end=end) < base + 1

    @property
    def reads(self) -> tuple[Op, ...]:
        """Reads of everything concerned, for ``otherwise()``; in the order that :meth:`learn` expects."""
        return (
            *[op.get(grant.key) for grant in self.grants],
            *[op.get(key) for key in (*self.keys, *self.unwritten)],
            *[op.get_range(start, end) for start, end in self.ranges],
        )

    def check_grants(self, result: TxnResult) -> None:
        """Raise the lost error of a grant that is gone, by the answer to :attr:`reads`."""
        for index, grant in enumerate(self.grants):
            items = result.range(index).items
            if not items or items[0].create_revision != grant.token:
                raise grant.lost_error(grant.name, grant.token, "revoked")

    def learn(self, result: TxnResult) -> tuple[Known, list[bytes]]:
        """Return what the answer to :attr:`reads` tells, and which keys had changed."""
        known = Known(revision=result.revision)
        changed: list[bytes] = []
        at = len(self.grants)
        for key in (*self.keys, *self.unwritten):
            items = result.range(at).items
            at += 1
            found = known.keys[key] = items[0] if items else None
            now = found.mod_revision if found is not None else 0
            if now != self.keys[key] if key in self.keys else now > self.unwritten[key]:
                changed.append(key)
        for bounds, base in self.ranges.items():
            found_range = replace(result.range(at), revision=result.revision)
            at += 1
            known.add_range(bounds, found_range)
            fresh = [kv.key for kv in found_range.items if kv.mod_revision > base]
            changed += [key for key in fresh if key not in self.keys]
        return known, changed
