"""The operations of a history as moves on keys, apart where no operation uses the keys together.

A revision that the store told of and no call is known to have made is placed in time by the revisions that others were
told; apart from that, revisions only say what to try first.
"""

from __future__ import annotations

import itertools
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, NamedTuple

from coord.testing.check.registers import Cell, Registers, State, is_plain
from coord.testing.check.timeline import NEVER, Operation, lease_ids, puts_of, ranges_of
from coord.testing.check.wgl import Move
from coord.testing.lines import key_bytes, key_text
from coord.testing.model import in_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from coord.testing.check.reference import Reference
    from coord.testing.records import SeenEvent

# Keys that an explanation names.
_SHOWN = 5


class Part(NamedTuple):
    """Keys that are used together, and all operations on them."""

    keys: tuple[bytes, ...]
    moves: list[Move]
    calls: int
    """How many of the moves are recorded calls."""

    @property
    def initial(self) -> State:
        """No key is there."""
        return (None,) * len(self.keys)

    def describe(self) -> str:
        """Return the keys, of many the first."""
        shown = ", ".join(key_text(key) for key in self.keys[:_SHOWN])
        return shown + (f" and {len(self.keys) - _SHOWN} more" if len(self.keys) > _SHOWN else "")


class Partitions:
    """The parts of a history: keys that are used together, and each key by itself.

    Seen through one key alone, an operation on several does less and tells less. So a key that has no order alone has
    none at all, which is found quickly; that it has one says nothing yet.
    """

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._operations = [o for o in reference.timeline.operations if _is_judged(o, reference)]
        self._attached = _attached(self._operations)
        self._keys = sorted({key for o in self._operations for key in _point_keys(o.request)})
        self._uses = [(o, _touched(o, self._keys, self._attached)) for o in self._operations]
        self._foreign = _foreign(reference)
        self._windows = _Windows(reference)
        self._is_untold = reference.told < reference.highest

    def single(self) -> list[Part]:
        """Return each key by itself."""
        members: dict[bytes, list[Operation]] = {}
        for operation, touched in self._uses:
            for key in touched:
                members.setdefault(key, []).append(operation)
        return [self._part((key,), own, is_view=True) for key, own in members.items()]

    def joined(self) -> list[Part]:
        """Return the keys that are used together, where they are several."""
        groups = _Groups(self._keys)
        for _, touched in self._uses:
            groups.join(touched)
        for leased in self._attached.values() if self._is_untold else ():
            groups.join(sorted(leased))
        for events in self._foreign.values():
            groups.join([k for k in (key_bytes(e.pair.key) for e in events) if k in groups])
        members: dict[bytes, list[Operation]] = {}
        for operation, touched in self._uses:
            if touched:
                members.setdefault(groups.find(touched[0]), []).append(operation)
        parts = [(groups.group(root), own) for root, own in members.items()]
        return [self._part(keys, own, is_view=False) for keys, own in parts if len(keys) > 1]

    def _part(self, keys: tuple[bytes, ...], own: Sequence[Operation], *, is_view: bool) -> Part:
        registers = Registers(keys, is_view=is_view)
        moves = [_move(operation, registers, self._windows) for operation in own]
        moves += _foreign_moves(keys, self._foreign, self._windows)
        if self._is_untold:
            moves += _expiries(own, keys)
        return Part(keys, moves, len(own))


class _Windows:
    """When a revision was made that nobody was answered, from what others were told before and after."""

    def __init__(self, reference: Reference) -> None:
        told = [
            o
            for o in reference.timeline.operations
            if o.is_ok and o.revision and not o.is_serializable
        ]
        told.sort(key=lambda o: o.revision)
        self._revisions = [o.revision for o in told]
        # Who was told less was done before it: it came after those began. Who was told more: before those ended.
        self._begun = list(itertools.accumulate((o.begun for o in told), max))
        self._ended = list(itertools.accumulate((o.ended for o in reversed(told)), min))[::-1]

    def of(self, revision: int) -> tuple[int, int]:
        """Return the places between which it was made; at any time, if what was told makes no sense."""
        place = bisect_left(self._revisions, revision)
        begun = self._begun[place - 1] if place else -1
        ended = self._ended[place] if place < len(self._ended) else NEVER
        return (begun, ended) if begun < ended else (-1, NEVER)


def _is_judged(operation: Operation, reference: Reference) -> bool:
    if operation.status == "fail" or operation.is_serializable:
        return False
    if operation.op == "Range":
        return operation.is_ok and operation.response is not None and is_plain(operation.request)
    if operation.op not in {"Put", "DeleteRange", "Txn", "LeaseRevoke"}:
        return False
    if not operation.is_ok:
        # With everything told, what was seen nowhere and would have shown did not happen.
        told = reference.told >= reference.highest
        has_puts = any(True for _ in puts_of(operation.request))
        return operation.writes and not (told and has_puts and not operation.revision)
    return operation.response is not None


# Which keys an operation uses.


class _Groups:
    """Keys that are used together, joined step by step."""

    def __init__(self, keys: Iterable[bytes]) -> None:
        self._parent = {key: key for key in keys}

    def __contains__(self, key: bytes) -> bool:
        return key in self._parent

    def find(self, key: bytes) -> bytes:
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def join(self, keys: Sequence[bytes]) -> None:
        for key in keys[1:]:
            self._parent[self.find(key)] = self.find(keys[0])

    def group(self, root: bytes) -> tuple[bytes, ...]:
        return tuple(key for key in self._parent if self.find(key) == root)


def _point_keys(request: Any) -> Iterator[bytes]:  # noqa: ANN401 - any message of the API
    return (key for key, end in ranges_of(request) if not end)


def _attached(operations: Iterable[Operation]) -> dict[int, set[bytes]]:
    found: dict[int, set[bytes]] = {}
    for operation in operations:
        for put in puts_of(operation.request):
            if put.lease:
                found.setdefault(put.lease, set()).add(put.key)
    return found


def _touched(
    operation: Operation, keys: Sequence[bytes], attached: dict[int, set[bytes]]
) -> list[bytes]:
    if operation.op == "LeaseRevoke":
        return sorted(attached.get(operation.request.ID, ()))
    found: dict[bytes, None] = {}
    for start, end in ranges_of(operation.request):
        if end:
            found.update(dict.fromkeys(key for key in keys if in_range(key, start, end)))
        else:
            found[start] = None
    return list(found)


# What happened without a call.


def _foreign(reference: Reference) -> dict[int, tuple[SeenEvent, ...]]:
    """Return what the store told of and nobody was answered: expiries, and clients that were not recorded."""
    # A revocation that deletes nothing is answered at a revision that something else made.
    revoked: dict[int, set[int]] = {}
    for operation in reference.timeline.operations:
        if operation.op == "LeaseRevoke" and operation.request is not None:
            revoked.setdefault(operation.revision, set()).add(operation.request.ID)
    leases: dict[bytes, int] = {}
    found: dict[int, tuple[SeenEvent, ...]] = {}
    for revision, events in sorted(reference.events.items()):
        keys = [key_bytes(event.pair.key) for event in events]
        is_revoked = any(
            all(leases.get(key, lease) == lease for key in keys)
            for lease in revoked.get(revision, ())
        )
        if revision not in reference.writers and not is_revoked:
            found[revision] = events
        for key, event in zip(keys, events, strict=True):
            leases[key] = 0 if event.is_delete else event.pair.lease
    return found


def _foreign_moves(
    keys: tuple[bytes, ...], foreign: dict[int, tuple[SeenEvent, ...]], windows: _Windows
) -> Iterator[Move]:
    places = {key: place for place, key in enumerate(keys)}
    for revision, events in foreign.items():
        here = [(places[key], e) for e in events if (key := key_bytes(e.pair.key)) in places]
        if here:
            begun, ended = windows.of(revision)
            yield Move(
                name=f"revision {revision}",
                begun=begun,
                ended=ended,
                apply=_taking(here),
                hint=(revision, 0),
                text=f"revision {revision}, which no call is known to have made",
            )


def _taking(events: Sequence[tuple[int, SeenEvent]]) -> Callable[[State], Sequence[State]]:
    def apply(state: State) -> Sequence[State]:
        cells = list(state)
        for place, event in events:
            pair = event.pair
            cells[place] = (
                None
                if event.is_delete
                else Cell(
                    pair.value.encode(),
                    pair.create_revision,
                    pair.mod_revision,
                    pair.version,
                    pair.lease,
                )
            )
        return (tuple(cells),)

    return apply


def _expiries(operations: Sequence[Operation], keys: tuple[bytes, ...]) -> Iterator[Move]:
    """Return the end of each lease, which may have come at any time."""
    first: dict[int, int] = {}
    for operation in operations:
        for lease in lease_ids(operation.request):
            first.setdefault(lease, operation.begun)
    registers = Registers(keys, is_view=False)
    for lease, begun in first.items():
        yield Move(
            name=f"lease {lease:x}",
            begun=begun,
            ended=NEVER,
            apply=_ending(registers, lease),
            text=f"the end of lease {lease:x}",
        )


def _ending(registers: Registers, lease: int) -> Callable[[State], Sequence[State]]:
    return lambda state: (registers.revoke(state, lease),)


# What a call does.


def _move(operation: Operation, registers: Registers, windows: _Windows) -> Move:
    ended = operation.ended
    if operation.status == "info" and operation.revision:
        # It was seen, so it happened, and before somebody was told of it.
        found = windows.of(operation.revision)[1]
        ended = found if found > operation.begun else NEVER
    revision = operation.revision or -operation.call.id
    request, response = operation.request, operation.response if operation.is_ok else None
    is_write = operation.changed or (operation.status == "info" and operation.revision > 0)

    def apply(state: State) -> Sequence[State]:
        return registers.run(state, request, response, revision)

    return Move(
        name=operation.name,
        begun=operation.begun,
        ended=ended,
        apply=apply,
        hint=(operation.revision or NEVER, 0 if is_write else 1),
        text=operation.describe(),
        # An answer that tells of no change; of a revocation none does.
        is_read=operation.is_ok and not operation.changed and operation.op != "LeaseRevoke",
    )
