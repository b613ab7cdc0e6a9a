"""The entries of a lock's line, as they are read back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from coord.metadata import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from coord.store.values import KeyValue


@dataclass(frozen=True, slots=True, kw_only=True)
class LineEntry:
    """One holder or waiter: its key, its token, its lease, and what it says of itself (empty for other clients)."""

    key: bytes
    token: int
    lease_id: int
    metadata: Mapping[str, object]


def entry_of(kv: KeyValue) -> LineEntry:
    """Return a key of a line as its entry."""
    return LineEntry(
        key=kv.key, token=kv.create_revision, lease_id=kv.lease, metadata=parse(kv.value)
    )


def owner_in(value: bytes) -> str:
    """Return which task or thread an entry belongs to, empty for entries that are none of ours."""
    told = parse(value)
    owner = told.get("owner")
    return owner if isinstance(owner, str) and "nonce" in told else ""
