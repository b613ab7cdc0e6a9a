"""Who reads, who writes and who waits, as the entries tell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.locking.entries import LineEntry
from coord.metadata import parse

if TYPE_CHECKING:
    from coord.recipes.rwlock.place import Mode
    from coord.store.values import KeyValue


@dataclass(frozen=True, slots=True, kw_only=True)
class RWEntry(LineEntry):
    """One who reads, writes, or waits to."""

    mode: Mode


@dataclass(frozen=True, slots=True, kw_only=True)
class RWState:
    """A read-write lock as of one revision: who reads, who writes, and who waits, first in line first."""

    readers: tuple[RWEntry, ...]
    writer: RWEntry | None
    waiting: tuple[RWEntry, ...]


def state_of(name: bytes, line: tuple[KeyValue, ...]) -> RWState:
    """Tell who runs and who waits from the entries in order of their creation."""
    folders: dict[bytes, Mode] = {name + b"/read/": "read", name + b"/write/": "write"}

    def mode_of(kv: KeyValue) -> Mode | None:
        return next((mode for folder, mode in folders.items() if kv.key.startswith(folder)), None)

    writing = {kv.create_revision for kv in line if mode_of(kv) == "write"}
    readers: list[RWEntry] = []
    writers: list[RWEntry] = []
    waiting: list[RWEntry] = []
    for kv in line:
        mode = mode_of(kv)
        if mode is None or (mode == "read" and kv.create_revision in writing):
            continue  # not of this lock, or the read entry of a writer
        entry = RWEntry(
            key=kv.key,
            token=kv.create_revision,
            lease_id=kv.lease,
            metadata=parse(kv.value),
            mode=mode,
        )
        if mode == "read" and not writers and not waiting:
            readers.append(entry)
        elif mode == "write" and not writers and not readers:
            writers.append(entry)
        else:
            waiting.append(entry)
    return RWState(
        readers=tuple(readers), writer=writers[0] if writers else None, waiting=tuple(waiting)
    )
