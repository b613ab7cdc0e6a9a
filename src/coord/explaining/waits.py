"""What a session waits for at other names, whatever their layout."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from coord.entry import META_PREFIX
from coord.locking.waits import Waiting, Waits, follow
from coord.recipes.rwlock.state import state_of
from coord.recipes.semaphore.entries import entry_of
from coord.roster import roster

if TYPE_CHECKING:
    from collections.abc import Iterable

    from coord.coordination import Coordination
    from coord.store.values import KeyValue

_HOLDERS_FOLLOWED = 8
_FOLDERS = (b"/read/", b"/write/", b"/holders/", b"/waiters/")


async def waits_of(home: Coordination, lease_id: int, timeout: float) -> tuple[Waiting, ...]:
    """Follow what the holder of ``lease_id`` waits for, and in lines of locks the holders of that."""
    found = await follow(home, lease_id, sessions=_HOLDERS_FOLLOWED, timeout=timeout)
    waits = Waits(home, timeout)
    counted = [replace(wait, ahead=await waits.counted(wait)) for wait in found]
    elsewhere = await _elsewhere(home, lease_id, timeout)
    return (*[wait for wait in counted if wait.ahead], *elsewhere)


async def _elsewhere(home: Coordination, lease_id: int, timeout: float) -> list[Waiting]:
    """Return what it waits for in read-write locks, semaphores and double barriers."""
    info = await home.leases.time_to_live(lease_id, keys=True, timeout=timeout)
    found: list[Waiting] = []
    for key in info.keys:
        place = next((place for place in _FOLDERS if place in key), None)
        if place is None or key.startswith(META_PREFIX):
            continue
        name = key.rpartition(place)[0]
        line = await roster(home.core, name, timeout=timeout)
        ours = next((kv for kv in line if kv.key == key), None)
        if ours is None:
            continue
        before = _in_the_way(name, place, line, ours)
        if before is not None:
            found.append(
                Waiting(
                    lease_id=lease_id,
                    name=name,
                    ahead=len(before),
                    holder=before[0].lease if before else 0,
                    token=ours.create_revision,
                    holder_token=before[0].create_revision if before else 0,
                )
            )
    return found


def _in_the_way(
    name: bytes, place: bytes, line: tuple[KeyValue, ...], ours: KeyValue
) -> list[KeyValue] | None:
    """Return those before our entry, None if it does not wait."""
    before = [kv for kv in line if kv.create_revision < ours.create_revision]
    if place == b"/holders/":
        holders = _below(name + place, before)
        return None if entry_of(ours).state == "granted" else holders
    if place == b"/waiters/":
        ready = [kv for kv in line if kv.key == name + b"/ready"]
        inside = ready and ready[0].mod_revision > ours.create_revision
        return None if inside else _below(name + place, before)
    waiting = {entry.key for entry in state_of(name, line).waiting}
    return before if ours.key in waiting else None


def _below(prefix: bytes, entries: Iterable[KeyValue]) -> list[KeyValue]:
    return [kv for kv in entries if kv.key.startswith(prefix)]
